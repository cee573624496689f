//! A change of roots, handshake by handshake, and tunnels that live through it.

use super::peers::credential_under;
use super::*;
use crate::identity::fixtures::trusting;
use crate::identity::{DomainTrust, Revocation, TrustBundle, TrustStore, TrustUpdate};

fn set_roots(trust: &TrustStore, bundle: TrustBundle, issuer: &TestCa) {
    trust.set_own(TrustUpdate {
        domain: DomainTrust {
            bundle,
            revocation: Revocation::NotUsed,
        },
        issuer: Some(issuer.key_id()),
    });
}

#[tokio::test]
async fn roots_change_without_one_failed_handshake() {
    let (old, new) = (TestCa::new("cluster.local"), TestCa::new("cluster.local"));
    let trust = trusting(&old);
    let before = [
        credential_under(&old, &id("web"), &trust).await,
        credential_under(&old, &id("db"), &trust).await,
    ];
    let (accepted, _) = handshake(&before[1], &before[0], &id("db")).await;
    let tunnel = accepted.unwrap();

    // Both are trusted, while the old one signs still; then the new one does.
    for issuer in [&old, &new] {
        set_roots(&trust, old.bundle_with(&new), issuer);
        let after = [
            credential_under(&new, &id("web"), &trust).await,
            credential_under(&new, &id("db"), &trust).await,
        ];
        for [web, _] in [&before, &after] {
            for [_, db] in [&before, &after] {
                for (client, server) in [(web, db), (db, web)] {
                    let (accepted, connected) = handshake(server, client, server.id()).await;
                    assert_eq!(accepted.unwrap().peer, *client.id());
                    let session = connected.unwrap();
                    assert_eq!(session.peer, *server.id());
                    session.still_trusted(&trust.current(), epoch()).unwrap();
                }
            }
        }
        tunnel.still_trusted(&trust.current(), epoch()).unwrap();
    }

    // The old one is dropped: only what the new one signed counts, at once.
    let after = [
        credential_under(&new, &id("web"), &trust).await,
        credential_under(&new, &id("db"), &trust).await,
    ];
    set_roots(&trust, new.bundle(), &new);
    for (web, fine) in [(&before[0], false), (&after[0], true)] {
        let (accepted, _) = handshake(&after[1], web, &id("db")).await;
        let untrusted = matches!(accepted, Err(HandshakeFailure::UntrustedRoot));
        assert_eq!(accepted.is_ok(), fine);
        assert_eq!(untrusted, !fine);
        let (_, connected) = handshake(web, &after[1], &id("web")).await;
        assert_eq!(connected.is_ok(), fine);
    }
    let cut = tunnel.still_trusted(&trust.current(), epoch());
    assert!(
        matches!(cut, Err(HandshakeFailure::UntrustedRoot)),
        "{cut:?}"
    );
    // Dropped after its certificates had ended, as is right, it takes nothing along.
    assert!(!tunnel.has_expired(epoch()) && tunnel.has_expired(epoch() + 2 * DAY));
    tunnel
        .still_trusted(&trust.current(), epoch() + 2 * DAY)
        .unwrap();
}

#[tokio::test]
async fn a_root_that_cannot_be_read_is_named_and_the_others_count() {
    let ca = TestCa::new("cluster.local");
    let trust = trusting(&ca);
    let mut roots = vec![rustls::pki_types::CertificateDer::from(vec![0x30, 0x00])];
    roots.extend(ca.bundle().roots().iter().cloned());
    let domain = trust.own().clone();
    set_roots(&trust, TrustBundle::new(domain.clone(), roots), &ca);
    let current = trust.current();
    let [why] = current.unusable_roots(&domain) else {
        panic!("{:?}", current.unusable_roots(&domain));
    };
    assert!(why.starts_with("root 0: "), "{why}");
    let db = credential_under(&ca, &id("db"), &trust).await;
    let client = RawClient::with(ca.identity(&id("web")));
    assert_eq!(client.handshake_with(&db).await.unwrap().peer, id("web"));
}

#[tokio::test]
async fn a_tunnel_outlives_its_certificate() {
    let ca = TestCa::new("cluster.local");
    let trust = trusting(&ca);
    let db = credential_under(&ca, &id("db"), &trust).await;
    let mut params = leaf_params(&[&id("web").to_string()]);
    // Its last second.
    params.not_before = (epoch() - DAY).into();
    params.not_after = epoch().into();
    let client = RawClient::with(ca.sign(params));
    let session = client.handshake_with(&db).await.unwrap();
    // The machine's own clock says another time than the test's altogether.
    session.still_trusted(&trust.current(), epoch()).unwrap();
}

#[tokio::test]
async fn session_is_to_be_renewed_well_before_the_peers_certificate_ends() {
    let ca = TestCa::new("cluster.local");
    // A certificate of a minute, half of which is over.
    let minute = std::time::Duration::from_secs(60);
    let web = super::peers::credential_at(&ca, "web", epoch(), epoch() + minute).await;
    let db = super::peers::credential_at(&ca, "db", epoch(), epoch() + DAY).await;
    db.clock.set(epoch() + minute / 2);
    web.clock.set(epoch() + minute / 2);
    let now = epoch() + minute / 2;
    let (accepted, _) = handshake(&db.credential, &web.credential, &id("db")).await;
    let session = accepted.unwrap();
    assert_eq!(session.time_to_renew(now, 0.0).as_secs(), 24);
    assert_eq!(session.time_to_renew(now, 1.0).as_secs(), 27);
    let later = now + std::time::Duration::from_secs(20);
    assert_eq!(session.time_to_renew(later, 0.0).as_secs(), 4);
    assert!(session.time_to_renew(now + minute, 1.0).is_zero());
}

#[tokio::test]
async fn session_tells_whether_the_roots_changed_since_its_handshake() {
    let (old, new) = (TestCa::new("cluster.local"), TestCa::new("cluster.local"));
    let trust = trusting(&old);
    let web = credential_under(&old, &id("web"), &trust).await;
    let db = credential_under(&old, &id("db"), &trust).await;
    let (accepted, _) = handshake(&db, &web, &id("db")).await;
    let session = accepted.unwrap();
    assert!(session.has_roots_of(&trust.current()));
    // Lists and the issuer say nothing of roots.
    let list = old.list(&[], epoch() + HOUR);
    trust.set_own(old.news(Revocation::Lists(vec![list])));
    assert!(session.has_roots_of(&trust.current()));
    set_roots(&trust, old.bundle_with(&new), &old);
    assert!(!session.has_roots_of(&trust.current()));
    set_roots(&trust, old.bundle(), &old);
    assert!(
        session.has_roots_of(&trust.current()),
        "they are as they were"
    );
}
