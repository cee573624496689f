//! What a peer's own certificate must be: one workload's, in time, for the purpose, with its key.

use super::*;

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
