//! `mesh-agent ca` as a person uses it: what it issues is judged by OpenSSL, and a process that
//! is killed at any moment loses nothing that it has told.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use isthmus_tests::process::{Finished, Process, own_program, run};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// A folder that goes with the test, and the commands in it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("isthmus-authority-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// A folder with an authority in `ca`.
    fn with_authority() -> Result<Self> {
        let folder = Self::new()?;
        folder.ca("init", &[])?;
        Ok(folder)
    }

    /// `mesh-agent ca WORDS --dir ca MORE`
    fn try_ca(&self, words: &str, more: &[&str]) -> Result<Finished> {
        let mut command = Command::new(own_program("mesh-agent")?);
        command
            .arg("ca")
            .args(words.split(' '))
            .args(["--dir", "ca"]);
        command.args(more).current_dir(&self.0);
        run(command)
    }

    fn ca(&self, words: &str, more: &[&str]) -> Result<String> {
        let finished = self.try_ca(words, more)?;
        finished
            .success()
            .with_context(|| format!("ca {words} {more:?}"))
    }

    fn openssl(&self, words: &str) -> Result<Finished> {
        let mut command = Command::new("openssl");
        command.args(words.split(' ')).current_dir(&self.0);
        run(command)
    }

    fn read(&self, name: &str) -> Result<String> {
        fs::read_to_string(self.0.join(name)).with_context(|| name.to_owned())
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.0.join(name), text).with_context(|| name.to_owned())
    }

    /// Splits the chain in `from` into `leaf.pem` and `above.pem`, and gathers the lists.
    fn spread(&self, from: &str) -> Result<()> {
        let chain = self.read(&format!("{from}/chain.pem"))?;
        let end = "-----END CERTIFICATE-----\n";
        let (leaf, above) = chain.split_once(end).context("no certificate")?;
        self.write("leaf.pem", &format!("{leaf}{end}"))?;
        self.write("above.pem", above)?;
        let mut lists = String::new();
        for issuer in fs::read_dir(self.0.join("ca/issuers"))? {
            // What a killed rotation left half made or half removed may have none.
            lists += &fs::read_to_string(issuer?.path().join("crl.pem")).unwrap_or_default();
        }
        self.write("lists.pem", &lists)
    }

    fn verify(&self, purpose: &str) -> Result<Finished> {
        self.openssl(&format!(
            "verify -x509_strict -purpose {purpose} -CAfile ca/roots.pem -untrusted above.pem \
             -crl_check -CRLfile lists.pem leaf.pem"
        ))
    }

    /// Serials in the journal.
    fn listed(&self) -> Result<BTreeSet<String>> {
        let all = self.ca("list --all -o json", &[])?;
        let all: Vec<serde_json::Value> = serde_json::from_str(&all)?;
        let serial = |entry: &serde_json::Value| entry["serial"].as_str().map(str::to_owned);
        Ok(all.iter().filter_map(serial).collect())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The extensions that OpenSSL shows of a certificate: names, whether critical, and contents.
fn extensions(text: &str) -> Vec<String> {
    let shown = text
        .lines()
        .skip_while(|line| !line.contains("X509v3 extensions:"))
        .skip(1);
    let shown = shown.take_while(|line| !line.contains("Signature Algorithm"));
    let mut found: Vec<String> = Vec::new();
    for line in shown.map(str::trim) {
        match found.last_mut() {
            _ if line.starts_with("X509v3") => found.push(line.trim_end_matches(' ').to_owned()),
            Some(last) => {
                // Key identifiers are any bytes.
                let is_bytes = line.len() == 59 && line.split(':').all(|byte| byte.len() == 2);
                *last += if is_bytes { " BYTES" } else { " " };
                *last += if is_bytes { "" } else { line };
            }
            None => {}
        }
    }
    found.sort();
    found
}

#[test]
fn authority_certificates_have_exactly_the_extensions_that_they_should() -> Result<()> {
    let folder = Folder::with_authority()?;
    folder.ca("issue", &["--identity", WEB, "--out", "web"])?;
    folder.spread("web")?;
    let leaf = folder
        .openssl("x509 -noout -text -in leaf.pem")?
        .success()?;
    let expected = [
        "X509v3 Authority Key Identifier: BYTES",
        "X509v3 Basic Constraints: critical CA:FALSE",
        "X509v3 Extended Key Usage: TLS Web Server Authentication, TLS Web Client Authentication",
        "X509v3 Key Usage: critical Digital Signature",
        "X509v3 Subject Alternative Name: critical URI:spiffe://cluster.local/ns/shop/sa/web",
        "X509v3 Subject Key Identifier: BYTES",
    ];
    ensure!(extensions(&leaf) == expected, "{:#?}", extensions(&leaf));
    ensure!(leaf.contains("ASN1 OID: prime256v1") && leaf.contains("ecdsa-with-SHA256"));
    let above = folder
        .openssl("x509 -noout -text -in above.pem")?
        .success()?;
    let expected = [
        "X509v3 Authority Key Identifier: BYTES",
        "X509v3 Basic Constraints: critical CA:TRUE, pathlen:0",
        "X509v3 Key Usage: critical Certificate Sign, CRL Sign",
        "X509v3 Subject Alternative Name: URI:spiffe://cluster.local",
        "X509v3 Subject Key Identifier: BYTES",
    ];
    ensure!(extensions(&above) == expected, "{:#?}", extensions(&above));
    // Key and certificate belong together.
    let public = folder.openssl("pkey -in web/key.pem -pubout")?.success()?;
    let certified = folder
        .openssl("x509 -noout -pubkey -in leaf.pem")?
        .success()?;
    ensure!(public == certified);
    Ok(())
}

#[test]
fn authority_chains_and_lists_pass_openssl_until_revoked() -> Result<()> {
    let folder = Folder::with_authority()?;
    let issued = folder.ca("issue", &["--identity", WEB, "--out", "web"])?;
    let serial = issued.lines().next().context("no serial")?;
    for purpose in ["sslserver", "sslclient"] {
        folder.spread("web")?;
        folder.verify(purpose)?.success()?;
    }
    folder.ca(
        "revoke",
        &["--serial", serial, "--reason", "key-compromise"],
    )?;
    folder.spread("web")?;
    let refused = folder.verify("sslclient")?;
    let text = format!("{}{}", refused.stdout, refused.stderr);
    ensure!(
        !refused.status.success() && text.contains("certificate revoked"),
        "{text}"
    );
    let list = folder
        .openssl("crl -noout -text -in lists.pem")?
        .success()?;
    ensure!(
        list.contains(&serial.to_uppercase())
            && list.contains("Key Compromise")
            && list.contains("X509v3 CRL Number")
            && list.contains("X509v3 Authority Key Identifier"),
        "{list}"
    );
    let again = folder.ca("issue", &["--identity", WEB, "--out", "web"])?;
    ensure!(!again.contains(serial));
    folder.spread("web")?;
    folder.verify("sslclient")?.success()?;

    folder.ca("revoke", &["--identity", WEB])?;
    let refused = folder.try_ca("issue", &["--identity", WEB, "--out", "web"])?;
    ensure!(
        !refused.status.success() && refused.stderr.contains("ca restore"),
        "{refused:?}"
    );
    folder.ca("restore", &["--identity", WEB])?;
    folder.ca("issue", &["--identity", WEB, "--out", "web"])?;
    Ok(())
}

#[test]
fn authority_rotations_pass_openssl_at_every_step() -> Result<()> {
    let folder = Folder::with_authority()?;
    folder.ca("issue", &["--identity", WEB, "--out", "old"])?;
    let both = || -> Result<()> {
        folder.ca("issue", &["--identity", WEB, "--out", "new"])?;
        for chain in ["old", "new"] {
            folder.spread(chain)?;
            folder.verify("sslclient")?.success()?;
        }
        Ok(())
    };
    folder.ca("rotate intermediate --now", &[])?;
    both()?;
    let said = folder.ca("rotate root prepare", &[])?;
    ensure!(said.contains("rotate root activate"), "{said}");
    both()?;
    folder.ca("rotate root activate", &[])?;
    both()?;
    let early = folder.try_ca("rotate root finish", &[])?;
    ensure!(
        !early.status.success() && early.stderr.contains("--force"),
        "{early:?}"
    );
    folder.ca("rotate root finish", &["--force"])?;
    folder.spread("new")?;
    folder.verify("sslclient")?.success()?;
    folder.spread("old")?;
    ensure!(
        !folder.verify("sslclient")?.status.success(),
        "the old root is still trusted"
    );
    Ok(())
}

/// A root that OpenSSL keeps signs the intermediate; its key is never in the folder.
#[test]
fn authority_below_a_corporate_root_passes_openssl() -> Result<()> {
    let folder = Folder::new()?;
    let request = folder.ca("init --csr", &[])?;
    folder.write("request.pem", &request)?;
    let text = folder
        .openssl("req -noout -text -verify -in request.pem")?
        .success()?;
    ensure!(
        text.contains("CA:TRUE, pathlen:0") && text.contains("Certificate Sign, CRL Sign"),
        "{text}"
    );
    folder
        .openssl(
            "req -x509 -newkey rsa:2048 -nodes -keyout corporate.key -out corporate.pem -days 3650 \
             -subj /DC=example/DC=com/O=Example/CN=Root -addext keyUsage=critical,keyCertSign,cRLSign",
        )?
        .success()?;
    folder.write(
        "copy",
        "copy_extensions = copy\n[ext]\nsubjectKeyIdentifier = hash\n",
    )?;
    folder
        .openssl(
            "x509 -req -in request.pem -CA corporate.pem -CAkey corporate.key -CAcreateserial \
             -days 400 -copy_extensions copy -extfile copy -extensions ext -out chain.pem",
        )?
        .success()?;
    let files = ["--chain", "chain.pem", "--roots", "corporate.pem"];
    folder.ca("init", &files)?;
    folder.ca("issue", &["--identity", WEB, "--out", "web"])?;
    folder.spread("web")?;
    folder.verify("sslserver")?.success()?;
    let second = folder.try_ca("init", &files)?;
    ensure!(
        !second.status.success() && second.stderr.contains("already"),
        "{second:?}"
    );
    Ok(())
}

/// A CSR from elsewhere; and what a CSR may not ask for.
#[test]
fn authority_takes_requests_of_openssl() -> Result<()> {
    let folder = Folder::with_authority()?;
    let san = format!("subjectAltName=URI:{WEB}");
    let request = |more: &str| -> Result<()> {
        let words = format!(
            "req -new -newkey rsa:2048 -nodes -keyout own.key -out own.pem -subj / -addext {san}{more}"
        );
        folder.openssl(&words)?.success()?;
        Ok(())
    };
    let words = ["--identity", WEB, "--csr", "own.pem", "--out", "web"];
    request("")?;
    folder.ca("issue", &words)?;
    ensure!(!folder.0.join("web/key.pem").exists());
    folder.spread("web")?;
    folder.verify("sslclient")?.success()?;
    for (more, reason) in [
        (",DNS:a.example", "exactly one"),
        (
            " -addext basicConstraints=critical,CA:TRUE",
            "a certificate authority",
        ),
    ] {
        request(more)?;
        let refused = folder.try_ca("issue", &words)?;
        ensure!(
            !refused.status.success() && refused.stderr.contains(reason),
            "{refused:?}"
        );
    }
    Ok(())
}

/// A shell in a process group of its own, with the agent's program as `$0`.
fn shell(folder: &Folder, script: &str) -> Result<Process> {
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(own_program("mesh-agent")?);
    command.current_dir(&folder.0).process_group(0);
    Process::spawn(command)
}

/// Runs a shell loop until it has told something and for a random while more, and kills it with
/// all that it started.
fn kill_at_random(folder: &Folder, script: &str, after: Duration) -> Result<String> {
    let mut shell = shell(folder, script)?;
    shell.wait_line(|line| !line.is_empty())?;
    // The point of the test is that nothing says when.
    std::thread::sleep(after);
    killpg(Pid::from_raw(shell.pid().try_into()?), Signal::SIGKILL)?;
    shell.wait()?;
    Ok(shell.stdout())
}

/// Each round is killed after another while, up to 100 ms; for ever.
fn points() -> impl Iterator<Item = Duration> {
    (0..40u64)
        .cycle()
        .map(|round| Duration::from_micros(round * 7_919_000 % 100_003))
}

#[test]
fn authority_killed_at_any_moment_loses_no_record() -> Result<()> {
    let folder = Folder::with_authority()?;
    let script = format!(
        "for n in 1 2; do (while :; do \"$0\" ca issue --dir ca --identity {WEB} --out out$n; \
         done) & done; wait"
    );
    let is_serial = |line: &&str| line.len() == 32 && line.bytes().all(|b| b.is_ascii_hexdigit());
    let mut told = BTreeSet::new();
    // On a busy machine a round comes to less.
    for (round, after) in points().enumerate() {
        if round >= 40 && told.len() > 40 {
            break;
        }
        let output = kill_at_random(&folder, &script, after)?;
        told.extend(output.lines().filter(is_serial).map(str::to_owned));
        let listed = folder.listed()?;
        let lost: Vec<_> = told.difference(&listed).collect();
        ensure!(lost.is_empty(), "{after:?}: {lost:?}");
    }
    folder.ca("issue", &["--identity", WEB, "--out", "web"])?;
    folder.spread("web")?;
    folder.verify("sslclient")?.success()?;
    Ok(())
}

#[test]
fn authority_killed_in_a_rotation_or_revocation_can_go_on() -> Result<()> {
    let folder = Folder::with_authority()?;
    let steps = format!(
        "\"$0\" ca rotate intermediate --now --dir ca; \
         \"$0\" ca issue --dir ca --identity {WEB} --out out | head -n 1 > serial; \
         \"$0\" ca revoke --dir ca --serial $(cat serial) && echo gone $(cat serial); \
         \"$0\" ca rotate root prepare --dir ca; \"$0\" ca rotate root activate --dir ca; \
         \"$0\" ca rotate root finish --force --dir ca"
    );
    // Once to the end, to know how long that takes here.
    let start = Instant::now();
    let mut whole = shell(&folder, &steps)?;
    whole.wait()?;
    let took = start.elapsed();
    ensure!(
        whole.stdout().contains("no longer trusted"),
        "{}",
        whole.stdout()
    );
    let script = format!("while :; do {steps}; done");
    for part in 1..=20 {
        let after = took * part / 18;
        let output = kill_at_random(&folder, &script, after)?;
        // Whatever was said to be revoked is, and what is issued now is good.
        let all = folder.ca("list -o json", &[])?;
        let all: Vec<serde_json::Value> = serde_json::from_str(&all)?;
        for serial in output.lines().filter_map(|line| line.strip_prefix("gone ")) {
            let entry = all.iter().find(|entry| entry["serial"] == serial);
            let entry = entry.with_context(|| format!("{after:?}: {serial} is lost"))?;
            ensure!(entry["state"] == "revoked", "{after:?}: {entry}");
        }
        folder.ca("issue", &["--identity", WEB, "--out", "web"])?;
        folder.spread("web")?;
        let verified = folder.verify("sslclient")?;
        ensure!(verified.status.success(), "{after:?}: {verified:?}");
    }
    Ok(())
}
