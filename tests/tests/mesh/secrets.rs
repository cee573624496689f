//! Key material and tokens stay where they are: in no log, whatever its level, no answer, no
//! metric, no kernel map and no core.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Mesh, Node};
use isthmus_tests::process::{Process, own_program, run};
use isthmus_tests::traffic::Talk;
use isthmus_tests::wait::{patience, until, wait_until};
use nix::sys::signal::Signal;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::abroad::authority;
use crate::foreign::Authority;
use crate::pair::Pair;

/// Something that must be seen nowhere, as text in the forms that it could take.
struct Secret {
    what: String,
    forms: Vec<String>,
}

impl Secret {
    /// A private key in PEM.
    fn key(path: &Path) -> Result<Self> {
        let pem = fs::read_to_string(path)?;
        let PrivateKeyDer::Pkcs8(der) = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?
        else {
            anyhow::bail!("{} is not PKCS #8", path.display());
        };
        let mut secret = Self::bytes(path.display().to_string(), scalar(&der)?);
        // Lines of the PEM that begin with nothing that all keys have.
        let body = pem.lines().filter(|line| !line.starts_with("-----"));
        secret.forms.extend(body.skip(1).map(str::to_owned));
        Ok(secret)
    }

    fn bytes(what: String, bytes: &[u8]) -> Self {
        let mut hex = String::new();
        for byte in bytes {
            let _ = write!(hex, "{byte:02x}");
        }
        // As `{:?}` prints them; half of it, so that an abbreviated list is found too.
        let list: Vec<_> = bytes[..bytes.len() / 2].iter().map(u8::to_string).collect();
        let forms = vec![hex.to_uppercase(), hex, list.join(", "), list.join(",")];
        Self { what, forms }
    }

    fn token(text: &str) -> Self {
        let mut secret = Self::bytes("a token".to_owned(), text.as_bytes());
        // Its first part may be a name for it.
        secret.forms.push(text[text.len() / 2..].to_owned());
        secret
    }

    fn ensure_not_in(&self, place: &str, text: &str) -> Result<()> {
        for form in &self.forms {
            ensure!(!text.contains(form), "{} is in {place}", self.what);
        }
        Ok(())
    }
}

/// The private number of an EC key, an OCTET STRING of 32 bytes (RFC 5915).
fn scalar<'a>(der: &'a PrivatePkcs8KeyDer<'_>) -> Result<&'a [u8]> {
    let der = der.secret_pkcs8_der();
    let at = der.windows(5).position(|w| w == [2, 1, 1, 4, 32]);
    let at = at.context("no EC key of 256 bits")? + 5;
    der.get(at..at + 32).context("a key that is cut off")
}

/// `ca serve` in front of the mesh's authority, on loopback. Gives its address.
fn serve(mesh: &Mesh, log: &Path) -> Result<(Process, String)> {
    // Free a moment ago, on an address that is no other test's.
    let [_, b, c, d] = std::process::id().to_be_bytes();
    let host = format!("127.{}.{c}.{d}", 128 | b);
    let free = std::net::TcpListener::bind((host.as_str(), 0))?.local_addr()?;
    let mut command = Command::new(own_program("mesh-agent")?);
    command.args([
        "ca",
        "serve",
        "--name",
        &host,
        "--listen",
        &free.to_string(),
    ]);
    command.arg("--config").arg(mesh.config());
    command.arg("--dir").arg(mesh.state().join("ca"));
    command.env("RUST_LOG", "trace");
    let words: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
    let mut shell = Command::new("sh");
    shell.args(["-c", "log=$1; shift; exec \"$@\" >\"$log\" 2>&1", "sh"]);
    shell.arg(log).arg(own_program("mesh-agent")?).args(words);
    shell.env("RUST_LOG", "trace");
    Ok((Process::spawn(shell)?, format!("https://{free}")))
}

/// After traffic, renewal, and failures of several kinds, with everything logged.
#[test]
fn secrets_are_in_no_log_answer_metric_or_map() -> Result<()> {
    let pair = Pair::prepare()?;
    let (mesh, ca) = (&pair.mesh, pair.mesh.state().join("ca"));
    let file = |name: &str| mesh.scratch().join(name);
    authority("init", &ca, &[])?;
    fs::write(file("roots.pem"), authority("bundle", &ca, &[])?)?;
    let token = authority("token create", &ca, &["--node", "a"])?;
    let token = token.trim();
    // A good one whose node is another, so that it is refused for what it may not.
    let wrong = authority("token create", &ca, &["--node", "elsewhere"])?;
    let wrong = wrong.trim();
    private(&file("token"), wrong)?;
    let (_serving, url) = serve(mesh, &file("serve.log"))?;

    // The server's certificate comes from files.
    let folder = file("files/default/server");
    fs::create_dir_all(&folder)?;
    let pem = Authority::of_the_mesh(mesh)?.pem_leaf(&pair.server.identity())?;
    let (chain, key) = pem.split_at(pem.find("-----BEGIN PRIVATE").context("no key")?);
    fs::write(folder.join("cert-chain.pem"), chain)?;
    fs::copy(file("roots.pem"), folder.join("root-cert.pem"))?;
    private(&folder.join("key.pem"), key)?;

    let mut secrets = vec![
        Secret::key(&folder.join("key.pem"))?,
        Secret::token(token),
        Secret::token(wrong),
    ];
    for issuer in fs::read_dir(ca.join("issuers"))? {
        secrets.push(Secret::key(&issuer?.path().join("key.pem"))?);
    }
    for root in fs::read_dir(ca.join("root-keys"))? {
        secrets.push(Secret::key(&root?.path())?);
    }
    ensure!(secrets.len() == 5, "{} secrets", secrets.len());

    let option = |name: &str| file(name).display().to_string();
    let (roots, token_file) = (option("roots.pem"), option("token"));
    let remote = [
        "--ca",
        &url,
        "--ca-roots",
        &roots,
        "--ca-token",
        &token_file,
    ];
    let options = [&remote[..], &["--certificate-lifetime", "60"]].concat();
    pair.a.set_options(&options);
    pair.b.set_options(&["--certificates", &option("files")]);
    pair.a.set_log("trace");
    pair.b.set_log("trace");
    pair.a.launch()?;
    pair.b.launch()?;
    pair.b.wait_ready()?;
    // The authority refuses the node, and then does not.
    wait_until("the authority refuses the node", || {
        let status = pair.a.cli("status").unwrap_or_default();
        status["authority"]["error"]
            .as_str()
            .is_some_and(|error| error.contains("refused"))
    })?;
    private(&file("token"), token)?;
    pair.a.wait_ready()?;
    pair.wait_enrolled()?;

    let _echo = pair.server.serve("serve echo")?;
    let talk = Talk::open(&pair.client, pair.server.v4(8080))?;
    // A client without a certificate, and a key that is not whole.
    let at = pair.server.v4(15008).to_string();
    pair.client
        .run("openssl", &["s_client", "-connect", &at, "-alpn", "h2"])?;
    private(&folder.join("key.pem"), &key[..key.len() / 2])?;
    wait_until("the key is said to be broken", || {
        pair.b.cli("status").is_ok_and(|status| {
            status["certificates"][0]["error"]
                .as_str()
                .is_some_and(|error| error.contains("key.pem"))
        })
    })?;
    let serial =
        || -> Result<String> { Ok(pair.a.cli("status")?["certificates"][0]["serial"].to_string()) };
    let first = serial()?;
    until(
        "the client's certificate is renewed",
        patience(90),
        || Ok((serial()? != first).then_some(())),
        || pair.a.log_tail(),
    )?;
    talk.ask()?;

    let mut said = vec![
        ("the log of ca serve".to_owned(), read(&file("serve.log"))?),
        (
            "ca list".to_owned(),
            authority("list --all -o json", &ca, &[])?,
        ),
        (
            "ca token list".to_owned(),
            authority("token list", &ca, &[])?,
        ),
    ];
    for node in [&pair.a, &pair.b] {
        said.extend(everything(node)?);
    }
    for (place, text) in &said {
        ensure!(!text.contains("PRIVATE KEY"), "a PEM header is in {place}");
        for secret in &secrets {
            secret.ensure_not_in(place, text)?;
        }
    }
    // So much was logged that there was something to find.
    let traced = said
        .iter()
        .filter(|(_, text)| text.contains("\"level\":\"TRACE\""));
    ensure!(traced.count() == 3, "not everything was logged");
    talk.close()
}

/// All that a node's agent says, by where it says it.
fn everything(node: &Node) -> Result<Vec<(String, String)>> {
    let mut said = vec![
        ("the log".to_owned(), read(&node.log_file())?),
        ("the metrics".to_owned(), node.metrics()?),
    ];
    for command in ["status", "workloads", "connections", "problems"] {
        for form in ["", " -o json"] {
            let finished = node.cli_run(&format!("{command}{form}"))?;
            said.push((command.to_owned(), finished.stdout + &finished.stderr));
        }
    }
    for map in fs::read_dir(node.pin_dir().join("maps"))? {
        let map = map?.path();
        let mut bpftool = Command::new("bpftool");
        bpftool.args(["map", "dump", "pinned"]).arg(&map);
        // Some kinds cannot be dumped, by anybody.
        let finished = run(bpftool)?;
        // Bytes stand apart there.
        let text = finished.stdout + &finished.stderr;
        let joined: String = text.split_whitespace().collect();
        said.push((map.display().to_string(), text + &joined));
    }
    for (place, _) in &mut said {
        *place = format!("{place} of {}", node.name());
    }
    Ok(said)
}

fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// At once or not at all, for nobody but root.
fn private(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    fs::rename(&new, path).with_context(|| path.display().to_string())
}

/// An agent that crashes leaves no core, even where somebody has lifted the limit.
#[test]
fn secrets_are_in_no_core() -> Result<()> {
    let mesh = Mesh::new()?;
    let node = mesh.node("a")?;
    node.start()?;
    let pid = node.pid()?.to_string();
    let limits = read(Path::new(&format!("/proc/{pid}/limits")))?;
    let core = limits.lines().find(|line| line.starts_with("Max core"));
    let soft = core.and_then(|line| line.split_whitespace().nth(4));
    ensure!(soft == Some("0"), "{core:?}");
    let mut lift = Command::new("prlimit");
    lift.args(["--core=unlimited:unlimited", "--pid", &pid]);
    run(lift)?.success()?;
    node.signal_oldest(Signal::SIGABRT)?;
    let ended = node.wait_oldest()?;
    let (signal, dumped) = {
        use std::os::unix::process::ExitStatusExt as _;
        (ended.signal(), ended.core_dumped())
    };
    ensure!(signal == Some(Signal::SIGABRT as i32), "{ended}");
    ensure!(!dumped, "a core was written");
    Ok(())
}
