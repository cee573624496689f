//! Real handshakes over an in-memory pipe: the mesh's own ends against each
//! other, and against peers that do as they please.

mod openssl;
mod peers;

use rustls::{AlertDescription, HandshakeKind, NamedGroup, ServerConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;
use crate::identity::fixtures::{
    DAY, HOUR, TestCa, ca_params, epoch, id, leaf_params, self_signed,
};
use crate::identity::{PeerIdentityError, leaf_identity};
use peers::{RawClient, RawServer, credential, credential_at, versions};

const PIPE: usize = 64 * 1024;

/// Both ends' views of a handshake between two credentials.
async fn handshake(
    server: &Credential,
    client: &Credential,
    expected: &SpiffeId,
) -> (
    Result<Session, HandshakeFailure>,
    Result<Session, HandshakeFailure>,
) {
    let (near, far) = duplex(PIPE);
    let accepted = async { Ok(accept(server, far).await?.session) };
    let connected = async {
        let mut secured = connect(client, expected, near).await?;
        // The server's verdict on our certificate comes with the first read.
        match secured.stream.read_u8().await {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(secured.session),
            Err(error) => Err(handshake_failure(&error)),
            Ok(byte) => panic!("nobody sent {byte}"),
        }
    };
    tokio::join!(accepted, connected)
}

#[tokio::test]
async fn both_ends_learn_who_the_other_is() {
    let ca = TestCa::new("cluster.local");
    let (web, db) = (credential(&ca, "web").await, credential(&ca, "db").await);
    let (near, far) = duplex(PIPE);
    let expected = id("db");
    let (server, client) = tokio::join!(accept(&db, far), connect(&web, &expected, near));
    let (mut server, mut client) = (server.unwrap(), client.unwrap());

    assert_eq!(server.session.peer, id("web"));
    assert_eq!(client.session.peer, id("db"));
    for session in [&server.session, &client.session] {
        assert_eq!(session.version, "TLSv1.3");
        assert_eq!(session.suite, "TLS_AES_256_GCM_SHA384");
    }
    client.stream.write_all(b"ping").await.unwrap();
    client.stream.flush().await.unwrap();
    let mut got = [0; 4];
    server.stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"ping");

    let connection: &ServerConnection = server.stream.get_ref().1;
    let group = connection.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
}

#[tokio::test]
async fn sessions_are_never_resumed_and_no_name_is_sent() {
    let ca = TestCa::new("cluster.local");
    let (web, db) = (credential(&ca, "web").await, credential(&ca, "db").await);
    let config = web.client_config(&id("db")).unwrap();
    for _ in 0..3 {
        let (near, far) = duplex(PIPE);
        let client = TlsConnector::from(config.clone());
        // A name that could be sent, to see that it is not.
        let name = ServerName::try_from("db.shop.svc").unwrap();
        let (server, client) = tokio::join!(accept(&db, far), client.connect(name, near));
        let (mut server, mut client) = (server.unwrap().stream, client.unwrap());
        assert_eq!(server.get_ref().1.server_name(), None);
        // Tickets would come before the first data.
        server.write_all(b"x").await.unwrap();
        server.flush().await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'x');
        let connection = client.get_ref().1;
        assert_eq!(connection.tls13_tickets_received(), 0);
        assert_eq!(connection.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn a_client_refuses_another_workload_at_the_address() {
    let ca = TestCa::new("cluster.local");
    let (web, thief) = (credential(&ca, "web").await, credential(&ca, "thief").await);
    let (server, client) = handshake(&thief, &web, &id("db")).await;
    let client = client.expect_err("connected to the wrong workload");
    assert!(
        matches!(&client, HandshakeFailure::WrongIdentity { expected, presented }
            if *expected == id("db") && *presented == id("thief")),
        "{client:?}"
    );
    assert_eq!(
        client.to_string(),
        "wrong identity: expected spiffe://cluster.local/ns/shop/sa/db, \
         the peer presented spiffe://cluster.local/ns/shop/sa/thief"
    );
    let server = server.expect_err("accepted a client that went away");
    let alert = AlertDescription::CertificateUnknown;
    assert!(
        matches!(server, HandshakeFailure::RefusedByPeer(got) if got == alert),
        "{server:?}"
    );
}

#[tokio::test]
async fn another_mesh_is_refused_by_both_ends_by_name() {
    let (ours, theirs) = (TestCa::new("cluster.local"), TestCa::new("example.org"));
    let db = credential(&ours, "db").await;
    let stranger: SpiffeId = "spiffe://example.org/ns/shop/sa/web".parse().unwrap();

    let client = RawClient::with(theirs.identity(&stranger));
    let failure = client
        .handshake_with(&db)
        .await
        .expect_err("let a stranger in");
    assert!(
        matches!(&failure, HandshakeFailure::ForeignTrustDomain { ours, presented }
            if ours == id("db").trust_domain() && *presented == stranger),
        "{failure:?}"
    );
    let server = RawServer::with(theirs.identity(&stranger));
    let failure = server
        .handshake_with(&db, &id("web"))
        .await
        .expect_err("went to a stranger");
    assert!(
        matches!(failure, HandshakeFailure::ForeignTrustDomain { .. }),
        "{failure:?}"
    );

    // Also when our own root signed it.
    let client = RawClient::with(ours.identity(&stranger));
    let failure = client
        .handshake_with(&db)
        .await
        .expect_err("let a stranger in");
    assert!(
        matches!(failure, HandshakeFailure::ForeignTrustDomain { .. }),
        "{failure:?}"
    );
    let server = RawServer::with(ours.identity(&stranger));
    let failure = server
        .handshake_with(&db, &id("web"))
        .await
        .expect_err("went to a stranger");
    assert!(
        matches!(failure, HandshakeFailure::WrongIdentity { .. }),
        "{failure:?}"
    );
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_and_told_so() {
    let ca = TestCa::new("cluster.local");
    let db = credential(&ca, "db").await;
    let (failure, seen) = RawClient::anonymous().handshake_and_read(&db).await;
    let failure = failure.expect_err("let an anonymous client in");
    assert!(
        matches!(failure, HandshakeFailure::NoClientCertificate),
        "{failure:?}"
    );
    let seen = handshake_failure(&seen.expect_err("the client was not told"));
    let required = AlertDescription::CertificateRequired;
    assert!(
        matches!(seen, HandshakeFailure::RefusedByPeer(got) if got == required),
        "{seen:?}"
    );
}

#[tokio::test]
async fn a_chain_to_no_root_of_ours_is_refused() {
    let (ours, other) = (TestCa::new("cluster.local"), TestCa::new("cluster.local"));
    let db = credential(&ours, "db").await;
    let web = id("web").to_string();
    // The second authority has the name of the first, and another key.
    for identity in [
        self_signed(&leaf_params(&[&web])),
        other.identity(&id("web")),
    ] {
        let failure = RawClient::with(identity).handshake_with(&db).await;
        let failure = failure.expect_err("let an unknown authority's client in");
        assert!(
            matches!(failure, HandshakeFailure::UntrustedRoot),
            "{failure:?}"
        );
    }
    let server = RawServer::with(other.identity(&id("web")));
    let failure = server
        .handshake_with(&db, &id("web"))
        .await
        .expect_err("trusted another root");
    assert!(
        matches!(failure, HandshakeFailure::UntrustedRoot),
        "{failure:?}"
    );
}

#[tokio::test]
async fn certificates_count_within_their_validity_only() {
    let ca = TestCa::new("cluster.local");
    type Expected = fn(&HandshakeFailure) -> bool;
    let cases: [(i64, Expected); 2] = [
        (-1, |failure| matches!(failure, HandshakeFailure::Expired)),
        (1, |failure| {
            matches!(failure, HandshakeFailure::NotYetValid)
        }),
    ];
    let db = credential(&ca, "db").await;
    for (days, expected) in cases {
        let mut params = leaf_params(&[&id("web").to_string()]);
        let shift = time::Duration::days(days);
        // One second away from the time on the server's clock.
        let edge = time::Duration::seconds(days);
        params.not_before += if days > 0 { edge } else { shift };
        params.not_after = if days > 0 {
            params.not_after + shift
        } else {
            params.not_before - shift + edge
        };
        let failure = RawClient::with(ca.sign(params.clone()))
            .handshake_with(&db)
            .await;
        let failure = failure.expect_err("let a client in out of time");
        assert!(expected(&failure), "{failure:?}");
        let server = RawServer::with(ca.sign(params));
        let failure = server
            .handshake_with(&db, &id("web"))
            .await
            .expect_err("out of time");
        assert!(expected(&failure), "{failure:?}");
    }
}

#[tokio::test]
async fn the_clock_decides_and_not_the_day_of_the_test() {
    let ca = TestCa::new("cluster.local");
    let late = epoch() + DAY - HOUR;
    let db = credential_at(&ca, "db", late, late + DAY).await;
    let client = RawClient::with(ca.identity(&id("web")));
    client
        .handshake_with(&db.credential)
        .await
        .expect("an hour is left");
    db.clock.set(epoch() + DAY + HOUR);
    let failure = client
        .handshake_with(&db.credential)
        .await
        .expect_err("an hour too late");
    assert!(matches!(failure, HandshakeFailure::Expired), "{failure:?}");
}

#[tokio::test]
async fn older_tls_is_refused() {
    let ca = TestCa::new("cluster.local");
    let db = credential(&ca, "db").await;
    let old = RawClient::with(ca.identity(&id("web"))).speaking(versions::TLS12);
    let failure = old.handshake_with(&db).await.expect_err("spoke TLS 1.2");
    assert!(
        matches!(failure, HandshakeFailure::Incompatible(_)),
        "{failure:?}"
    );
    let old = RawServer::with(ca.identity(&id("web"))).speaking(versions::TLS12);
    let failure = old
        .handshake_with(&db, &id("web"))
        .await
        .expect_err("spoke TLS 1.2");
    let version = AlertDescription::ProtocolVersion;
    assert!(
        matches!(failure, HandshakeFailure::RefusedByPeer(got) if got == version),
        "{failure:?}"
    );
}

#[tokio::test]
async fn both_ends_insist_on_h2() {
    let ca = TestCa::new("cluster.local");
    let db = credential(&ca, "db").await;
    for alpn in [&[][..], &[b"http/1.1".as_slice()]] {
        let client = RawClient::with(ca.identity(&id("web"))).offering(alpn);
        let failure = client.handshake_with(&db).await.expect_err("no h2");
        assert!(
            matches!(failure, HandshakeFailure::NoAlpn),
            "{alpn:?}: {failure:?}"
        );
    }
    let server = RawServer::with(ca.identity(&id("web"))).offering(&[]);
    let failure = server
        .handshake_with(&db, &id("web"))
        .await
        .expect_err("no h2");
    assert!(matches!(failure, HandshakeFailure::NoAlpn), "{failure:?}");
    // One of several is enough.
    let client = RawClient::with(ca.identity(&id("web"))).offering(&[b"http/1.1", b"h2"]);
    client.handshake_with(&db).await.expect("h2 was among them");
}

#[tokio::test]
async fn leaves_that_are_no_workloads_are_refused_by_both_ends() {
    let ca = TestCa::new("cluster.local");
    let db = credential(&ca, "db").await;
    let (web, other) = (id("web").to_string(), id("other").to_string());
    type Expected = fn(&PeerIdentityError) -> bool;
    let cases: [(&[&str], Expected); 3] = [
        (&[&web, &other], |error| {
            *error == PeerIdentityError::SeveralUris(2)
        }),
        (&[], |error| *error == PeerIdentityError::NoUri),
        (&["https://example.org"], |error| {
            matches!(error, PeerIdentityError::NotAWorkload(_))
        }),
    ];
    for (uris, expected) in cases {
        let client = RawClient::with(ca.sign(leaf_params(uris)));
        let server = RawServer::with(ca.sign(leaf_params(uris)));
        for outcome in [
            client.handshake_with(&db).await,
            server.handshake_with(&db, &id("web")).await,
        ] {
            let failure = outcome.expect_err("let an unidentified peer through");
            assert!(
                matches!(&failure, HandshakeFailure::Unidentified(error) if expected(error)),
                "{uris:?}: {failure:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_host_name_beside_the_identity_does_no_harm() {
    let ca = TestCa::new("cluster.local");
    let db = credential(&ca, "db").await;
    let mut params = leaf_params(&[&id("web").to_string()]);
    params
        .subject_alt_names
        .push(rcgen::SanType::DnsName("web.shop.svc".try_into().unwrap()));
    let session = RawClient::with(ca.sign(params.clone()))
        .handshake_with(&db)
        .await
        .unwrap();
    assert_eq!(session.peer, id("web"));
    let server = RawServer::with(ca.sign(params));
    assert_eq!(
        server.handshake_with(&db, &id("web")).await.unwrap().peer,
        id("web")
    );
}

#[tokio::test]
async fn certificates_for_another_purpose_are_refused() {
    use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let ca = TestCa::new("cluster.local");
    let db = credential(&ca, "db").await;
    let web = id("web").to_string();

    let mut only_server = leaf_params(&[&web]);
    only_server.extended_key_usages = vec![ServerAuth];
    let outcome = RawClient::with(ca.sign(only_server))
        .handshake_with(&db)
        .await;
    assert!(
        matches!(outcome, Err(HandshakeFailure::Certificate(_))),
        "{outcome:?}"
    );

    let mut only_client = leaf_params(&[&web]);
    only_client.extended_key_usages = vec![ClientAuth];
    let server = RawServer::with(ca.sign(only_client));
    let outcome = server.handshake_with(&db, &id("web")).await;
    assert!(
        matches!(outcome, Err(HandshakeFailure::Certificate(_))),
        "{outcome:?}"
    );

    // A CA's certificate is no workload's, whatever URI it carries.
    let mut authority = ca_params("subordinate");
    authority.subject_alt_names = leaf_params(&[&web]).subject_alt_names;
    let outcome = RawClient::with(ca.sign(authority))
        .handshake_with(&db)
        .await;
    assert!(
        matches!(outcome, Err(HandshakeFailure::Certificate(_))),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn chains_through_an_intermediate_are_followed() {
    let root = TestCa::new("cluster.local");
    let below = root.intermediate();
    let (web, db) = (
        credential(&below, "web").await,
        credential(&root, "db").await,
    );
    let (server, client) = handshake(&db, &web, &id("db")).await;
    assert_eq!(server.unwrap().peer, id("web"));
    assert_eq!(client.unwrap().peer, id("db"));
}

#[tokio::test]
async fn during_a_change_of_roots_both_are_trusted() {
    let (old, new) = (TestCa::new("cluster.local"), TestCa::new("cluster.local"));
    let bundle = old.bundle_with(&new);
    let web = peers::credential_trusting(&old, "web", bundle.clone()).await;
    let db = peers::credential_trusting(&new, "db", bundle).await;
    let (server, client) = handshake(&db, &web, &id("db")).await;
    assert_eq!(server.unwrap().peer, id("web"));
    assert_eq!(client.unwrap().peer, id("db"));
}

#[tokio::test]
async fn a_certificate_without_its_key_is_refused() {
    let ca = TestCa::new("cluster.local");
    let db = credential(&ca, "db").await;
    let mut stolen = ca.identity(&id("web"));
    stolen.key = ca.identity(&id("thief")).key;
    assert_eq!(leaf_identity(&stolen.chain[0]), Ok(id("web")));
    let failure = RawClient::with(stolen)
        .handshake_with(&db)
        .await
        .expect_err("took a thief");
    let bad = rustls::CertificateError::BadSignature;
    assert!(
        matches!(&failure, HandshakeFailure::Certificate(why) if *why == bad),
        "{failure:?}"
    );
}

#[tokio::test]
async fn what_is_not_tls_is_named_so() {
    let ca = TestCa::new("cluster.local");
    let db = credential(&ca, "db").await;
    let junk: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: db\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0xff; 64],
        &[0x16, 0x03, 0x01, 0x00, 0x05, 0x01, 0x00, 0x00, 0x01, 0x00],
    ];
    for bytes in junk {
        let (mut near, far) = duplex(PIPE);
        near.write_all(bytes).await.unwrap();
        let failure = accept(&db, far).await.expect_err("took junk");
        assert!(
            matches!(failure, HandshakeFailure::NotTls),
            "{bytes:?}: {failure:?}"
        );
    }
}

#[tokio::test]
async fn a_peer_that_leaves_is_told_from_one_that_refuses() {
    let ca = TestCa::new("cluster.local");
    let db = credential(&ca, "db").await;
    let (near, far) = duplex(PIPE);
    drop(near);
    let failure = accept(&db, far).await.expect_err("nobody was there");
    assert!(
        matches!(failure, HandshakeFailure::BrokenOff(_)),
        "{failure:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up() {
    let ca = TestCa::new("cluster.local");
    let db = credential(&ca, "db").await;
    let (_silent, far) = duplex(PIPE);
    let failure = accept(&db, far).await.expect_err("nobody spoke");
    assert!(
        matches!(failure, HandshakeFailure::TimedOut(_)),
        "{failure:?}"
    );
    let (_silent, far) = duplex(PIPE);
    let failure = connect(&db, &id("web"), far)
        .await
        .expect_err("nobody spoke");
    assert!(
        matches!(failure, HandshakeFailure::TimedOut(_)),
        "{failure:?}"
    );
}

#[tokio::test]
async fn before_the_handshake_nobody_is_identified() {
    let ca = TestCa::new("cluster.local");
    let db = credential(&ca, "db").await;
    let connection = ServerConnection::new(db.server_config().unwrap()).unwrap();
    assert_eq!(
        peer_identity(&connection),
        Err(PeerIdentityError::NoCertificate)
    );
}
