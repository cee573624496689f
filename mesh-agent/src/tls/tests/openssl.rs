//! Handshakes with another TLS implementation, OpenSSL's, over loopback: with
//! certificates of the embedded authority and both sides' checks in force.

use std::fs;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::ca::EmbeddedCa;
use crate::identity::fixtures::{domain, id};
use crate::identity::{CertificateAuthority, SvidStore, TrustStore};
use crate::tls::{HandshakeFailure, ParametersStore, Session, TlsSettings, accept};

/// Connects `openssl s_client` as `web` to a mesh server that is `db`.
async fn openssl_connects(arguments: &[&str]) -> (Result<Session, HandshakeFailure>, Output) {
    let dir = tempfile::tempdir().unwrap();
    let ca = Arc::new(EmbeddedCa::open(dir.path(), &domain("cluster.local")).unwrap());
    write_identity(&dir, &ca).await;
    let trust = TrustStore::new(domain("cluster.local"));
    trust.set_own(ca.authority().trust().unwrap());
    let parameters = ParametersStore::new(TlsSettings::default());
    let store = SvidStore::new(ca, trust, parameters);
    let db = store.acquire(&id("db")).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut client = Command::new("openssl");
    client
        .args(["s_client", "-connect", &address, "-no_ign_eof"])
        .args(["-CAfile", "ca/roots.pem", "-verify_return_error"])
        .args(arguments)
        .current_dir(dir.path())
        .stdin(Stdio::null());
    let client = tokio::task::spawn_blocking(move || client.output());
    let server = async {
        let (socket, _) = listener.accept().await.unwrap();
        let mut secured = accept(&db, socket).await?;
        // OpenSSL leaves at the end of its input, after the handshake.
        let mut rest = Vec::new();
        secured.stream.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
        Ok(secured.session)
    };
    let (session, output) = tokio::join!(server, client);
    (
        session,
        output
            .unwrap()
            .expect("these tests need the openssl command"),
    )
}

async fn write_identity(dir: &TempDir, ca: &EmbeddedCa) {
    let svid = ca.issue(&id("web")).await.unwrap().svid;
    let chain = crate::ca::pem::chain(svid.chain());
    fs::write(dir.path().join("web.pem"), chain).unwrap();
    fs::write(dir.path().join("web.key"), svid.key().secret_der()).unwrap();
}

const WEB: [&str; 8] = [
    "-cert",
    "web.pem",
    "-cert_chain",
    "web.pem",
    "-key",
    "web.key",
    "-keyform",
    "DER",
];

#[tokio::test]
async fn openssl_is_a_peer_like_any_other() {
    let (session, output) = openssl_connects(&[&WEB[..], &["-alpn", "h2"]].concat()).await;
    let shown = String::from_utf8_lossy(&output.stdout);
    assert_eq!(session.expect("refused OpenSSL").peer, id("web"), "{shown}");
    assert!(output.status.success(), "{shown}");
    for line in ["Verification: OK", "ALPN protocol: h2", "New, TLSv1.3"] {
        assert!(shown.contains(line), "no {line:?} in:\n{shown}");
    }
    assert!(!shown.contains("New Session Ticket"), "{shown}");
}

#[tokio::test]
async fn openssl_is_refused_without_certificate_protocol_or_version() {
    let (outcome, _) = openssl_connects(&["-alpn", "h2"]).await;
    let anonymous = matches!(outcome, Err(HandshakeFailure::NoClientCertificate));
    assert!(anonymous, "{outcome:?}");
    let (outcome, _) = openssl_connects(&WEB).await;
    assert!(
        matches!(outcome, Err(HandshakeFailure::NoAlpn)),
        "{outcome:?}"
    );
    let old = [&WEB[..], &["-alpn", "h2", "-tls1_2"]].concat();
    let (outcome, _) = openssl_connects(&old).await;
    assert!(
        matches!(outcome, Err(HandshakeFailure::Incompatible(_))),
        "{outcome:?}"
    );
}
