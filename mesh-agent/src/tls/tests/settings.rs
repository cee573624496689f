//! The settings in force are those of the next handshake, also where they let TLS 1.2
//! in: mutual, and never resumed there either.

use std::sync::Arc;

use rustls::HandshakeKind;
use tokio::io::duplex;
use tokio_rustls::TlsConnector;

use super::peers::{RawClient, RawServer, credential_with, versions};
use super::{PIPE, handshake};
use crate::identity::fixtures::{TestCa, id};
use crate::tls::{HandshakeFailure, ParametersStore, TlsSettings, TlsVersion, TlsWords, accept};

fn settings(minimum: &str, curves: &[&str]) -> TlsSettings {
    let curves: Vec<_> = curves.iter().map(|it| (*it).to_owned()).collect();
    let words = TlsWords {
        minimum: Some(minimum),
        curves: &curves,
        ..TlsWords::default()
    };
    TlsSettings::read(words).unwrap()
}

#[tokio::test]
async fn tls_1_2_comes_and_goes_with_the_settings_in_both_directions() {
    let ca = TestCa::new("cluster.local");
    let parameters = ParametersStore::new(TlsSettings::default());
    let db = credential_with(&ca, "db", &parameters).await;
    let client = RawClient::with(ca.identity(&id("web"))).speaking(versions::TLS12);
    let server = || RawServer::with(ca.identity(&id("web"))).speaking(versions::TLS12);
    for allowed in [false, true, false] {
        let minimum = if allowed { "TLSV1_2" } else { "TLSV1_3" };
        parameters.set(settings(minimum, &[]));
        let accepted = client.handshake_with(&db).await;
        let connected = server().handshake_with(&db, &id("web")).await;
        for outcome in [accepted, connected] {
            match outcome {
                Ok(session) => {
                    assert!(allowed, "spoke {} unasked", session.version);
                    assert_eq!(session.version, "TLSv1.2");
                    assert_eq!(session.suite, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384");
                    assert_eq!(session.peer, id("web"));
                }
                Err(failure) => assert!(!allowed, "{failure}"),
            }
        }
    }
}

#[tokio::test]
async fn tls_1_2_wants_the_clients_certificate_and_the_right_servers() {
    let ca = TestCa::new("cluster.local");
    let parameters = ParametersStore::new(settings("TLSV1_2", &[]));
    assert_eq!(parameters.current().settings().minimum(), TlsVersion::Tls12);
    let db = credential_with(&ca, "db", &parameters).await;
    let nobody = RawClient::anonymous().speaking(versions::TLS12);
    let failure = nobody.handshake_with(&db).await.expect_err("let nobody in");
    assert!(
        matches!(failure, HandshakeFailure::NoClientCertificate),
        "{failure:?}"
    );
    let thief = RawServer::with(ca.identity(&id("thief"))).speaking(versions::TLS12);
    let failure = thief.handshake_with(&db, &id("web")).await;
    let failure = failure.expect_err("went to another workload");
    assert!(
        matches!(failure, HandshakeFailure::WrongIdentity { .. }),
        "{failure:?}"
    );
}

#[tokio::test]
async fn sessions_of_tls_1_2_are_never_resumed() {
    let ca = TestCa::new("cluster.local");
    let parameters = ParametersStore::new(settings("TLSV1_2", &[]));
    let db = credential_with(&ca, "db", &parameters).await;
    // One configuration, with rustls's own cache of sessions.
    let client = RawClient::with(ca.identity(&id("web"))).speaking(versions::TLS12);
    let config = Arc::new(client.config());
    for _ in 0..3 {
        let (near, far) = duplex(PIPE);
        let name = rustls::pki_types::ServerName::try_from("db.shop.svc").unwrap();
        let connecting = TlsConnector::from(config.clone()).connect(name, near);
        let (server, client) = tokio::join!(accept(&db, far), connecting);
        assert_eq!(server.unwrap().session.version, "TLSv1.2");
        let kind = client.unwrap().get_ref().1.handshake_kind();
        assert_eq!(kind, Some(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn the_hybrid_can_be_required() {
    let ca = TestCa::new("cluster.local");
    let hybrid = ParametersStore::new(settings("TLSV1_3", &["X25519MLKEM768"]));
    let classic = ParametersStore::new(settings("TLSV1_3", &["P-256"]));
    let db = credential_with(&ca, "db", &hybrid).await;
    let web = credential_with(&ca, "web", &classic).await;
    let (server, client) = handshake(&db, &web, &id("db")).await;
    let failure = server.expect_err("did without the hybrid");
    assert!(
        matches!(failure, HandshakeFailure::Incompatible(_)),
        "{failure:?}"
    );
    let failure = client.expect_err("did without the hybrid");
    assert!(
        matches!(failure, HandshakeFailure::RefusedByPeer(_)),
        "{failure:?}"
    );
    classic.set(TlsSettings::default());
    let (server, client) = handshake(&db, &web, &id("db")).await;
    assert_eq!(server.unwrap().peer, id("web"));
    assert_eq!(client.unwrap().peer, id("db"));
}
