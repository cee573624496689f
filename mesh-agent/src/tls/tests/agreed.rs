//! What a handshake agrees on: identities, protocol, version, and no resumption.

use super::*;

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
async fn before_the_handshake_nobody_is_identified() {
    let ca = TestCa::new("cluster.local");
    let db = credential(&ca, "db").await;
    let connection = ServerConnection::new(db.server_config().unwrap()).unwrap();
    assert_eq!(
        crate::identity::peer_identity(&connection),
        Err(PeerIdentityError::NoCertificate)
    );
}
