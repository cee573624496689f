//! Hostile clients of the tunnel port: each gets the right refusal, and costs little.

mod intruder;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Mtls, Pod};
use isthmus_tests::wait::{patience, wait_until};

use self::intruder::{Answer, Intruder};
use crate::bulk::resident;
use crate::pair::Pair;

const MESH: &str = "spiffe://cluster.local/ns/default/sa/intruder";

struct Siege {
    pair: Pair,
    outsider: Pod,
    _server: isthmus_tests::process::Process,
}

impl Siege {
    fn lay() -> Result<Self> {
        let pair = Pair::prepare()?;
        pair.mesh.mtls(Mtls::Strict)?;
        pair.start_agents()?;
        let server = pair.server.serve("serve banner blue")?;
        Ok(Self {
            outsider: pair.mesh.outsider("outsider")?,
            _server: server,
            pair,
        })
    }

    fn tunnel_port(&self) -> SocketAddr {
        self.pair.server.v4(15008)
    }

    /// The mesh still serves its own.
    fn ensure_serving(&self) -> Result<()> {
        self.pair.ensure_blue()
    }

    fn ask(&self, intruder: &Intruder, authority: &str) -> Result<Answer> {
        self.outsider
            .netns()
            .run(|| intruder.connect(self.tunnel_port(), authority))
    }
}

/// A certificate of the mesh opens the door, so that the other tests' refusals mean something;
/// and then only the pod's own address is reached.
#[test]
fn connect_leads_to_the_pod_alone() -> Result<()> {
    let siege = Siege::lay()?;
    let insider = Intruder::of_the_mesh(&siege.pair.mesh.state(), MESH)?;
    let own = siege.pair.server.v4(8080);
    let Answer::Status { code: 200, first } = siege.ask(&insider, &own.to_string())? else {
        anyhow::bail!("not let in")
    };
    ensure!(first.starts_with("blue "), "{first}");
    let v6 = siege.pair.server.v6(8080);
    for (authority, code) in [
        (siege.pair.client.v4(8080).to_string(), 400),
        ("127.0.0.1:8080".to_owned(), 400),
        ("[::1]:8080".to_owned(), 400),
        // An address of the pod, but not the one that this tunnel goes to.
        (v6.to_string(), 400),
        ("server.default.svc:8080".to_owned(), 400),
        (own.ip().to_string(), 400),
        (siege.pair.server.v4(4444).to_string(), 503),
    ] {
        let answer = siege.ask(&insider, &authority)?;
        ensure!(
            matches!(answer, Answer::Status { code: got, .. } if got == code),
            "{authority}: {answer:?}, not {code}"
        );
    }
    siege.ensure_serving()
}

/// No certificate, or one that proves nothing here: no tunnel.
#[test]
fn certificates_that_prove_nothing() -> Result<()> {
    let siege = Siege::lay()?;
    let state = siege.pair.mesh.state();
    let own = siege.pair.server.v4(8080).to_string();
    for (what, intruder) in [
        ("no certificate", Intruder::without_certificate()?),
        ("another authority", Intruder::of_another_authority(MESH)?),
        (
            "another authority and trust domain",
            Intruder::of_another_authority("spiffe://other.example/ns/default/sa/intruder")?,
        ),
        (
            "another trust domain",
            Intruder::of_the_mesh(&state, "spiffe://other.example/ns/default/sa/intruder")?,
        ),
        (
            "no SPIFFE path",
            Intruder::of_the_mesh(&state, "https://cluster.local/ns/default/sa/intruder")?,
        ),
        ("an expired certificate", Intruder::expired(&state, MESH)?),
        (
            "two identities",
            Intruder::with_two_identities(
                &state,
                MESH,
                "spiffe://cluster.local/ns/default/sa/client",
            )?,
        ),
    ] {
        let answer = siege.ask(&intruder, &own)?;
        let Answer::Refused(why) = answer else {
            anyhow::bail!("{what} was let in: {answer:?}")
        };
        ensure!(
            !why.contains("connecting"),
            "{what} did not come as far as TLS: {why}"
        );
    }
    for reason in ["TLS_NO_CLIENT_CERT", "TLS_FOREIGN_TRUST_DOMAIN"] {
        let line = siege
            .pair
            .b
            .wait_access(reason, |line| line["reason"] == reason)?;
        ensure!(
            line["direction"] == "inbound" && line["outcome"] != "ok",
            "{line}"
        );
    }
    siege.ensure_serving()
}

/// Only TLS 1.3 is spoken.
#[test]
fn older_tls_is_refused() -> Result<()> {
    let siege = Siege::lay()?;
    let to = siege.tunnel_port().to_string();
    for version in ["-tls1_2", "-tls1_1"] {
        let finished = siege.outsider.run(
            "openssl",
            &[
                "s_client", "-connect", &to, version, "-alpn", "h2", "-brief",
            ],
        )?;
        let all = finished.stdout + &finished.stderr;
        ensure!(!all.contains("CONNECTION ESTABLISHED"), "{version}: {all}");
    }
    let finished = siege.outsider.run(
        "openssl",
        &[
            "s_client", "-connect", &to, "-tls1_3", "-alpn", "h2", "-brief",
        ],
    )?;
    let all = finished.stdout + &finished.stderr;
    ensure!(
        all.contains("TLSv1.3"),
        "openssl cannot speak TLS 1.3 with it either: {all}"
    );
    Ok(())
}

/// Bytes that are no TLS, half a handshake, and silence: closed, and others are served.
#[test]
fn garbage_and_silence() -> Result<()> {
    let siege = Siege::lay()?;
    let to = siege.tunnel_port();
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 4096],
        &[22, 3, 1, 0xff, 0xff, 1],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        siege.outsider.netns().run(|| {
            let mut stream = TcpStream::connect(to)?;
            stream.set_read_timeout(Some(patience(60)))?;
            stream.write_all(garbage)?;
            stream.shutdown(std::net::Shutdown::Write)?;
            let mut answer = Vec::new();
            // A reset is an answer too; a timeout is not.
            if let Err(error) = stream.read_to_end(&mut answer) {
                ensure!(
                    error.kind() == std::io::ErrorKind::ConnectionReset,
                    "{error}"
                );
            }
            ensure!(answer.len() < 100, "{} bytes for garbage", answer.len());
            Ok(())
        })?;
    }
    let silent = siege.outsider.netns().run(|| {
        (0..300)
            .map(|_| Ok(TcpStream::connect(to)?))
            .collect::<Result<Vec<_>>>()
    })?;
    siege.ensure_serving()?;
    drop(silent);
    siege.pair.b.wait_access("a failed handshake", |line| {
        line["reason"] == "TLS_HANDSHAKE"
    })?;
    Ok(())
}

/// Requests that are no CONNECT, or carry far too much, are refused; the tunnel's owner lives.
#[test]
fn requests_that_are_not_hbone() -> Result<()> {
    let siege = Siege::lay()?;
    let insider = Intruder::of_the_mesh(&siege.pair.mesh.state(), MESH)?;
    let own = siege.pair.server.v4(8080);
    let get = siege
        .outsider
        .netns()
        .run(|| insider.get(self_url(own), siege.tunnel_port()))?;
    ensure!(
        matches!(get, Answer::Status { code: 400, .. } | Answer::Refused(_)),
        "GET: {get:?}"
    );
    let huge = siege.outsider.netns().run(|| {
        insider.connect_with_header(siege.tunnel_port(), &own.to_string(), &"x".repeat(1 << 20))
    })?;
    ensure!(
        matches!(
            huge,
            Answer::Status {
                code: 400..=499,
                ..
            } | Answer::Refused(_)
        ),
        "a huge header: {huge:?}"
    );
    for (name, value) in [
        ("forwarded", "for=nonsense;;;"),
        ("baggage", "k8s.cluster.name="),
        ("traceparent", "zz"),
        ("x-unknown", "1"),
    ] {
        let answer = siege
            .outsider
            .netns()
            .run(|| insider.connect_with(siege.tunnel_port(), &own.to_string(), name, value))?;
        ensure!(
            matches!(answer, Answer::Status { code: 200, .. }),
            "{name}: {value} is to be tolerated: {answer:?}"
        );
    }
    siege.ensure_serving()
}

fn self_url(own: SocketAddr) -> String {
    format!("https://{own}/")
}

/// Thousands of streams cost bounded memory, and the others are served.
#[test]
fn thousands_of_streams() -> Result<()> {
    let siege = Siege::lay()?;
    let hold = siege.pair.server.serve("serve hold --listen [::]:81")?;
    let insider = Intruder::of_the_mesh(&siege.pair.mesh.state(), MESH)?;
    siege.ensure_serving()?;
    let before = resident(&siege.pair.b)?;
    let to = siege.pair.server.v4(81).to_string();
    let opened = siege
        .outsider
        .netns()
        .run(|| insider.flood(siege.tunnel_port(), &to, 5000))
        .context("the flood")?;
    let after = resident(&siege.pair.b)?;
    ensure!(opened > 0, "no stream was opened at all");
    ensure!(
        after < before + (256 << 20),
        "{before} bytes before, {after} after {opened} streams"
    );
    siege.ensure_serving()?;
    drop(hold);
    wait_until("the streams are gone", || {
        siege
            .pair
            .b
            .cli("connections")
            .is_ok_and(|all| all.as_array().is_some_and(|all| all.len() < 5))
    })
}
