//! Certificates that OpenSSL made and that come as files, with nothing but DNS names in them, as
//! users of AWS App Mesh have them. The pods' annotation says whose names they are.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Node, PodSpec};
use isthmus_tests::process::Process;
use isthmus_tests::traffic::Talk;
use isthmus_tests::wait::wait_until;
use serde_json::Value;

use crate::abroad::openssl;
use crate::pair::{Pair, ensure_reset};

/// Names of the client and of the server, as the configuration has them.
const CLIENT: &str = "client.shop.example";
const SERVER: &str = "server.shop.example";

/// Two nodes whose workloads' certificates are files of one CA. No agent runs at first.
pub(crate) struct Files {
    pub(crate) pair: Pair,
    folder: PathBuf,
    _echo: Process,
}

impl Files {
    pub(crate) fn prepare() -> Result<Self> {
        let mut pair = Pair::prepare()?;
        let named = |name: &'static str| {
            move |spec: PodSpec| spec.annotation("isthmus.dev/tls-names", name)
        };
        pair.client.reconfigure(named(CLIENT))?;
        pair.server.reconfigure(named(SERVER))?;
        let folder = pair.mesh.scratch().join("files");
        fs::create_dir(&folder)?;
        openssl(
            &folder,
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem \
             -days 30 -subj /O=Shop/CN=CA -addext keyUsage=critical,keyCertSign,cRLSign",
        )?;
        for node in [&pair.a, &pair.b] {
            let dir = folder.join(node.name()).display().to_string();
            fs::create_dir(&dir)?;
            node.set_options(&["--certificates", &dir]);
        }
        let echo = pair.server.serve("serve echo")?;
        Ok(Self {
            pair,
            folder,
            _echo: echo,
        })
    }

    /// Both have a good certificate: the client's is for its very name, the server's for a
    /// wildcard.
    fn start() -> Result<Self> {
        let files = Self::prepare()?;
        files.give(&files.client(), &dns(CLIENT))?;
        files.give(&files.server(), "DNS:*.shop.example")?;
        files.pair.start_agents()?;
        Ok(files)
    }

    pub(crate) fn client(&self) -> PathBuf {
        self.folder.join("a/default/client")
    }

    pub(crate) fn server(&self) -> PathBuf {
        self.folder.join("b/default/server")
    }

    /// Has OpenSSL make a key and a certificate for one name, as `DNS:x` or `URI:x`.
    fn make(&self, name: &str) -> Result<Made> {
        let dir = self.folder.display();
        openssl(
            &self.folder,
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout new.key -out new.csr -subj /O=Shop",
        )?;
        fs::write(
            self.folder.join("ext"),
            format!(
                "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n\
                 extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=critical,{name}\n"
            ),
        )?;
        openssl(
            &self.folder,
            "x509 -req -in new.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out new.pem",
        )?;
        let read = |file: &str| fs::read(self.folder.join(file)).with_context(|| dir.to_string());
        let serial = openssl(&self.folder, "x509 -in new.pem -noout -serial")?;
        let serial = serial.trim().trim_start_matches("serial=");
        Ok(Made {
            chain: read("new.pem")?,
            key: read("new.key")?,
            serial: serial.to_ascii_lowercase(),
        })
    }

    /// Puts a new certificate and its key in place; gives its serial.
    pub(crate) fn give(&self, to: &Path, name: &str) -> Result<String> {
        let made = self.make(name)?;
        fs::create_dir_all(to)?;
        fs::copy(self.folder.join("ca.pem"), to.join("root-cert.pem"))?;
        put(&to.join("key.pem"), &made.key)?;
        put(&to.join("cert-chain.pem"), &made.chain)?;
        Ok(made.serial)
    }

    /// A new connection to the server in a new tunnel.
    pub(crate) fn try_connection(&self) -> Result<Value> {
        let to = self.pair.server.v6(8080);
        self.pair.client.client(&format!("connect {to} --send x"))
    }
}

struct Made {
    chain: Vec<u8>,
    key: Vec<u8>,
    serial: String,
}

/// At once or not at all, for nobody but root.
fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, bytes)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    fs::rename(&new, path).with_context(|| path.display().to_string())
}

fn dns(name: &str) -> String {
    format!("DNS:{name}")
}

pub(crate) fn certificate(node: &Node) -> Result<Value> {
    Ok(node.cli("status")?["certificates"][0].take())
}

/// Serials are compared as numbers: one begins with zeros, the other does not.
fn has_serial(certificate: &Value, serial: &str) -> bool {
    let own = certificate["serial"].as_str().unwrap_or_default();
    own.trim_start_matches('0') == serial.trim_start_matches('0')
}

/// An exact name and a wildcard: two nodes talk with them, and log the identities that the
/// configuration says the names are of.
#[test]
fn file_certificates_with_dns_names_alone_carry_the_mesh() -> Result<()> {
    let files = Files::start()?;
    let Pair {
        a,
        b,
        client,
        server,
        ..
    } = &files.pair;
    let seen = files.try_connection()?;
    ensure!(seen["read"] == "x\n", "{seen}");
    for (node, direction) in [(a, "outbound"), (b, "inbound")] {
        let line = node.wait_access("the connection", |line| line["outcome"] == "ok")?;
        ensure!(
            line["direction"] == direction
                && line["source_identity"] == client.identity()
                && line["destination_identity"] == server.identity()
                && line["tls_version"] == "TLSv1.3",
            "{line}"
        );
        let source = certificate(node)?["source"].to_string();
        ensure!(source.contains("files in "), "{source}");
    }
    Ok(())
}

/// What cannot be used is said with its file, and the old certificate serves on; once it is
/// right, new connections have the new one, and what stands is not cut.
#[test]
fn file_certificates_that_do_not_fit_leave_the_old_in_force() -> Result<()> {
    let files = Files::prepare()?;
    files.give(&files.client(), &dns(CLIENT))?;
    let old = files.give(&files.server(), &dns(SERVER))?;
    files.pair.start_agents()?;
    let (b, folder) = (&files.pair.b, files.server());
    let standing = Talk::open(&files.pair.client, files.pair.server.v4(8080))?;
    let (chain, key) = (folder.join("cert-chain.pem"), folder.join("key.pem"));

    let stranger = files.make("DNS:other.shop.example")?;
    let next = files.make(&dns(SERVER))?;
    // Another workload's pair; a key of another certificate; half a file.
    let wrong: [(&Path, &[u8], &Path, &str); 3] = [
        (&chain, &stranger.chain, &chain, "other.shop.example"),
        (&chain, &next.chain, &key, "is not that of the certificate"),
        (&chain, &next.chain[..next.chain.len() / 2], &chain, "PEM"),
    ];
    for (at, bytes, named, says) in wrong {
        if says == "other.shop.example" {
            put(&key, &stranger.key)?;
        }
        put(at, bytes)?;
        wait_until(
            &format!("{} is said to be wrong: {says}", named.display()),
            || {
                let error = certificate(b).unwrap_or_default()["error"].to_string();
                error.contains(&named.display().to_string()) && error.contains(says)
            },
        )?;
        ensure!(has_serial(&certificate(b)?, &old), "another is in force");
        let seen = files.try_connection()?;
        ensure!(seen["read"] == "x\n", "{says}: {seen}");
        standing.ask()?;
    }
    let said = fs::read_to_string(b.log_file())?;
    ensure!(said.contains(&key.display().to_string()), "not in the log");

    put(&key, &next.key)?;
    put(&chain, &next.chain)?;
    wait_until("the new certificate is in force", || {
        certificate(b).is_ok_and(|it| has_serial(&it, &next.serial) && it["error"].is_null())
    })?;
    let seen = files.try_connection()?;
    ensure!(seen["read"] == "x\n", "{seen}");
    let shown = presented(&files)?;
    ensure!(shown.contains(&next.serial), "{shown}, not {}", next.serial);
    standing.ask()?;
    standing.close()
}

/// The serial that the server's port 15008 presents to OpenSSL, in lower case.
fn presented(files: &Files) -> Result<String> {
    let outsider = files.pair.mesh.outsider("outsider")?;
    let at = files.pair.server.v4(15008).to_string();
    let seen = outsider.run("openssl", &["s_client", "-connect", &at, "-alpn", "h2"])?;
    let end = "-----END CERTIFICATE-----\n";
    let begin = seen.stdout.find("-----BEGIN").context("no certificate")?;
    let stop = seen.stdout.find(end).context("no certificate")? + end.len();
    fs::write(files.folder.join("seen.pem"), &seen.stdout[begin..stop])?;
    let serial = openssl(&files.folder, "x509 -in seen.pem -noout -serial")?;
    Ok(serial.to_ascii_lowercase())
}

/// The server's certificate is good for its own node, whose configuration gives it another name;
/// the client's node expects the name that it knows, and refuses.
#[test]
fn file_certificates_of_another_name_are_refused_by_the_client() -> Result<()> {
    let mut files = Files::prepare()?;
    files.give(&files.client(), &dns(CLIENT))?;
    files.give(&files.server(), "DNS:impostor.shop.example")?;
    files.pair.a.freeze_configuration()?;
    let impostor =
        |spec: PodSpec| spec.annotation("isthmus.dev/tls-names", "impostor.shop.example");
    let yaml = files.pair.server.yaml()?;
    files
        .pair
        .server
        .reconfigure(|_| impostor(PodSpec::new("server")))?;
    ensure!(files.pair.server.yaml()? != yaml);
    files.pair.start_agents()?;
    ensure_reset(&files.try_connection()?)?;
    let line = files
        .pair
        .a
        .wait_access("the refusal", |line| line["outcome"] == "failed")?;
    let detail = line["detail"].as_str().unwrap_or_default();
    ensure!(
        line["reason"] == "UPSTREAM_WRONG_IDENTITY"
            && detail.contains("impostor.shop.example")
            && detail.contains(&files.pair.server.identity()),
        "{line}"
    );
    Ok(())
}
