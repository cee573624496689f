//! Who vouches for a peer, and that it is the expected one.

use super::*;

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
        matches!(failure, HandshakeFailure::ForeignTrustDomain { .. }),
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
