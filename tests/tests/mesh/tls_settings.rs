//! The mesh's TLS settings, as OpenSSL sees them from outside, changed under way: new handshakes
//! follow, and nothing that stands is cut.

use std::fs;

use anyhow::{Result, ensure};
use isthmus_tests::mesh::{Node, Pod};
use isthmus_tests::process::Process;
use isthmus_tests::traffic::Talk;
use serde_json::Value;

use crate::foreign::Authority;
use crate::pair::Pair;

/// A pair, an OpenSSL client with a certificate of the mesh, and a connection that stands.
struct Subject {
    standing: Talk,
    _echo: Process,
    /// Certificate and key of a workload of the mesh.
    pem: String,
    outsider: Pod,
    pair: Pair,
}

impl Subject {
    fn start() -> Result<Self> {
        let pair = Pair::start()?;
        let echo = pair.server.serve("serve echo")?;
        let leaf = Authority::of_the_mesh(&pair.mesh)?.pem_leaf(&pair.client.identity())?;
        let pem = pair.mesh.scratch().join("client.pem");
        fs::write(&pem, leaf)?;
        Ok(Self {
            standing: Talk::open(&pair.client, pair.server.v4(8080))?,
            _echo: echo,
            pem: pem.display().to_string(),
            outsider: pair.mesh.outsider("outsider")?,
            pair,
        })
    }

    /// Puts `meshMTLS` into force on both nodes. What stands goes on.
    fn set(&self, tls: &str) -> Result<()> {
        let yaml = format!(
            "apiVersion: isthmus.dev/v1alpha1\nkind: MeshConfig\nmetadata:\n  name: mesh\nspec:\n  meshMTLS: {tls}\n"
        );
        let Pair { a, b, mesh, .. } = &self.pair;
        a.after(|| b.after(|| mesh.write("mesh", &yaml)))?;
        self.standing.ask()
    }

    /// All that OpenSSL says of a handshake with the server's port 15008.
    fn openssl(&self, words: &str) -> Result<String> {
        let at = self.pair.server.v4(15008).to_string();
        let fixed = ["s_client", "-connect", &at, "-alpn", "h2"];
        let own = ["-cert", &self.pem, "-key", &self.pem];
        let chain = ["-cert_chain", &self.pem];
        let words: Vec<_> = words.split_whitespace().collect();
        let seen = self
            .outsider
            .run("openssl", &[&fixed[..], &own, &chain, &words].concat())?;
        Ok(seen.stdout + &seen.stderr)
    }

    /// A handshake comes about, with this in what OpenSSL says of it.
    fn ensure_taken(&self, words: &str, says: &str) -> Result<()> {
        let said = self.openssl(words)?;
        let whole = said.contains("ALPN protocol: h2") && !said.contains("SSL alert number");
        let taken = whole && said.contains(says);
        ensure!(taken, "{words}: {said}");
        Ok(())
    }

    /// The server itself refuses the handshake, with this alert.
    fn ensure_refused(&self, words: &str, alert: &str) -> Result<()> {
        let said = self.openssl(words)?;
        let refused = !said.contains("ALPN protocol: h2") && said.contains(alert);
        ensure!(refused, "{words}: {said}");
        Ok(())
    }

    /// A new connection crosses in a new tunnel, and this is its line on the client's node.
    fn cross(&self) -> Result<Value> {
        let talk = Talk::open(&self.pair.client, self.pair.server.v4(8080))?;
        let from = talk.from()?.to_string();
        talk.close()?;
        self.pair
            .a
            .wait_access("the connection", |line| line["src"] == from)
    }
}

/// Every suite of OpenSSL's, those that it would not offer by itself too.
const ALL: &str = "ALL:COMPLEMENTOFALL:@SECLEVEL=0";

/// By default only TLS 1.3 is spoken; OpenSSL gets in with nothing older.
#[test]
fn tls_settings_are_tls_13_by_default() -> Result<()> {
    let subject = Subject::start()?;
    subject.ensure_taken("-tls1_3", "TLSv1.3, Cipher is TLS_")?;
    for version in ["-tls1_2", "-tls1_1", "-tls1"] {
        let words = format!("{version} -cipher {ALL}");
        subject.ensure_refused(&words, "SSL alert number")?;
    }
    subject.standing.close()
}

/// TLS 1.2 when it is asked for: with the suites that are named, and no others, and nothing
/// below it.
#[test]
fn tls_settings_take_tls_12_with_the_named_suites() -> Result<()> {
    let subject = Subject::start()?;
    subject.set(
        "{minProtocolVersion: TLSV1_2, cipherSuites: [ECDHE-ECDSA-AES128-GCM-SHA256, TLS_AES_128_GCM_SHA256]}",
    )?;
    subject.ensure_taken(
        "-tls1_2",
        "TLSv1.2, Cipher is ECDHE-ECDSA-AES128-GCM-SHA256",
    )?;
    subject.ensure_taken("-tls1_3", "TLSv1.3, Cipher is TLS_AES_128_GCM_SHA256")?;
    let others = format!("-tls1_2 -cipher {ALL}:!ECDHE-ECDSA-AES128-GCM-SHA256");
    subject.ensure_refused(&others, "alert handshake failure")?;
    let others = "-tls1_3 -ciphersuites TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";
    subject.ensure_refused(others, "alert handshake failure")?;
    subject.ensure_refused(&format!("-tls1_1 -cipher {ALL}"), "SSL alert number")?;
    // Between ourselves the best that both have.
    let line = subject.cross()?;
    ensure!(
        line["tls_version"] == "TLSv1.3" && line["tls_suite"] == "TLS_AES_128_GCM_SHA256",
        "{line}"
    );
    for node in [&subject.pair.a, &subject.pair.b] {
        let tls = tls_of(node)?;
        ensure!(tls["minimum_version"] == "TLS 1.2", "{tls}");
        ensure!(
            tls["cipher_suites"]
                == serde_json::json!(["ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_AES_128_GCM_SHA256"]),
            "{tls}"
        );
    }

    // And back.
    subject.set("{}")?;
    subject.ensure_refused("-tls1_2", "alert protocol version")?;
    let line = subject.cross()?;
    ensure!(line["tls_suite"] == "TLS_AES_256_GCM_SHA384", "{line}");
    subject.standing.close()
}

/// What was withdrawn is refused with field and cure, and the settings in force stay.
#[test]
fn tls_settings_below_12_are_a_problem_and_change_nothing() -> Result<()> {
    let subject = Subject::start()?;
    subject.set("{minProtocolVersion: TLSV1_2}")?;
    subject.set("{minProtocolVersion: TLSV1_1, ecdhCurves: [P-256]}")?;
    for node in [&subject.pair.a, &subject.pair.b] {
        let problems = node.cli("problems")?.to_string();
        for part in [
            "mesh.yaml: MeshConfig mesh: spec.meshMTLS.minProtocolVersion: ",
            "RFC 8996",
            "write TLSV1_3",
            "the settings in force stay",
        ] {
            ensure!(problems.contains(part), "no {part:?} in {problems}");
        }
        let tls = tls_of(node)?;
        ensure!(tls["minimum_version"] == "TLS 1.2", "{tls}");
    }
    subject.ensure_taken("-tls1_2", "TLSv1.2, Cipher is ECDHE-ECDSA")?;
    // Nor does the other half of the setting hold.
    subject.ensure_taken("-tls1_2 -groups X25519:P-256", "Server Temp Key: X25519")?;
    subject.ensure_refused(&format!("-tls1_1 -cipher {ALL}"), "SSL alert number")?;
    subject.standing.close()
}

/// The hybrid is required: a client without it is refused, and the mesh goes on with it.
#[test]
fn tls_settings_can_require_the_post_quantum_hybrid() -> Result<()> {
    let subject = Subject::start()?;
    let classical = "-tls1_3 -groups X25519:P-256:P-384";
    subject.ensure_taken(classical, "TLSv1.3")?;
    subject.set("{ecdhCurves: [X25519MLKEM768]}")?;
    subject.ensure_refused(classical, "alert handshake failure")?;
    let line = subject.cross()?;
    ensure!(
        line["outcome"] == "ok" && line["tls_version"] == "TLSv1.3",
        "{line}"
    );
    for node in [&subject.pair.a, &subject.pair.b] {
        let tls = tls_of(node)?;
        ensure!(
            tls["key_exchanges"] == serde_json::json!(["X25519MLKEM768"]),
            "{tls}"
        );
        let shown = node.cli_run("status")?.success()?;
        ensure!(shown.contains("X25519MLKEM768"), "{shown}");
    }
    subject.standing.close()
}

fn tls_of(node: &Node) -> Result<Value> {
    Ok(node.cli("status")?["tls"].take())
}
