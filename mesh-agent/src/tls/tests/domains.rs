//! Several trust domains: meshes that trust each other talk, with one root or two,
//! and everybody else is refused.

use std::sync::Arc;

use super::peers::{acquire, credential_under};
use super::*;
use crate::identity::fixtures::trusting;
use crate::identity::{DomainTrust, Issued, Revocation, TrustBundle, TrustStore};

pub(super) fn of(domain: &str, account: &str) -> SpiffeId {
    format!("spiffe://{domain}/ns/shop/sa/{account}")
        .parse()
        .unwrap()
}

/// The roots of `ca` as those of the domain with that name.
pub(super) fn foreign(domain: &str, ca: &TestCa) -> DomainTrust {
    let name = of(domain, "any").trust_domain().clone();
    DomainTrust {
        bundle: TrustBundle::new(name, ca.bundle().roots().to_vec()),
        revocation: Revocation::NotUsed,
    }
}

/// A store of the mesh `domain` under `ca`, which trusts these others.
pub(super) fn mesh(domain: &str, ca: &TestCa, others: Vec<DomainTrust>) -> Arc<TrustStore> {
    let trust = TrustStore::new(of(domain, "any").trust_domain().clone());
    trust.set_own(crate::identity::TrustUpdate {
        domain: foreign(domain, ca),
        issuer: None,
    });
    trust.set_foreign(others);
    trust
}

#[tokio::test]
async fn two_meshes_that_trust_each_other_talk_both_ways() {
    let (one, two) = (TestCa::new("one"), TestCa::new("two"));
    // Under separate roots, and under one.
    for second in [&two, &one] {
        let here = mesh("one", &one, vec![foreign("two", second)]);
        let there = mesh("two", second, vec![foreign("one", &one)]);
        let web = credential_under(&one, &of("one", "web"), &here).await;
        let db = credential_under(second, &of("two", "db"), &there).await;
        for (client, server) in [(&web, &db), (&db, &web)] {
            let (accepted, connected) = handshake(server, client, server.id()).await;
            assert_eq!(accepted.unwrap().peer, *client.id());
            assert_eq!(connected.unwrap().peer, *server.id());
        }
    }
}

#[tokio::test]
async fn everybody_else_is_refused_from_the_next_handshake_on() {
    let (one, two, three) = (TestCa::new("one"), TestCa::new("two"), TestCa::new("three"));
    let here = mesh("one", &one, vec![foreign("two", &two)]);
    let db = credential_under(&one, &of("one", "db"), &here).await;
    let is_foreign = |outcome: Result<Session, HandshakeFailure>| {
        let failure = outcome.expect_err("let a stranger through");
        let foreign = matches!(failure, HandshakeFailure::ForeignTrustDomain { .. });
        assert!(foreign, "{failure:?}");
    };
    let stranger = of("three", "web");
    is_foreign(
        RawClient::with(three.identity(&stranger))
            .handshake_with(&db)
            .await,
    );
    let server = RawServer::with(three.identity(&stranger));
    is_foreign(server.handshake_with(&db, &stranger).await);

    // The configuration takes the second mesh out, and puts the third in.
    let friend = of("two", "web");
    let client = RawClient::with(two.identity(&friend));
    assert_eq!(client.handshake_with(&db).await.unwrap().peer, friend);
    here.set_foreign(vec![foreign("three", &three)]);
    is_foreign(client.handshake_with(&db).await);
    let client = RawClient::with(three.identity(&stranger));
    assert_eq!(client.handshake_with(&db).await.unwrap().peer, stranger);
}

#[tokio::test]
async fn a_root_vouches_for_its_own_domain_alone() {
    let (one, two) = (TestCa::new("one"), TestCa::new("two"));
    let here = mesh("one", &one, vec![foreign("two", &two)]);
    let db = credential_under(&one, &of("one", "db"), &here).await;
    // Each authority signs for the other's workloads.
    for (ca, claimed) in [(&two, of("one", "web")), (&one, of("two", "web"))] {
        for outcome in [
            RawClient::with(ca.identity(&claimed))
                .handshake_with(&db)
                .await,
            RawServer::with(ca.identity(&claimed))
                .handshake_with(&db, &claimed)
                .await,
        ] {
            let failure = outcome.expect_err("a root vouched for another domain");
            let untrusted = matches!(failure, HandshakeFailure::UntrustedRoot);
            assert!(untrusted, "{failure:?}");
        }
    }
}

#[tokio::test]
async fn a_certificate_may_bring_the_roots_of_its_own_domain() {
    let (files, other) = (TestCa::new("cluster.local"), TestCa::new("cluster.local"));
    let foreign_ca = TestCa::new("two");
    // The store's roots are another authority's.
    let trust = trusting(&other);
    trust.set_foreign(vec![foreign("two", &foreign_ca)]);
    let issued = Issued {
        bundle: Some(files.bundle()),
        ..files.issue_valid(&id("db"), epoch(), epoch() + DAY)
    };
    let db = acquire(issued, epoch(), Arc::clone(&trust))
        .await
        .credential;
    let session = RawClient::with(files.identity(&id("web")))
        .handshake_with(&db)
        .await
        .unwrap();
    assert_eq!(session.peer, id("web"));
    session.still_trusted(&trust.current(), epoch()).unwrap();
    let failure = RawClient::with(other.identity(&id("web")))
        .handshake_with(&db)
        .await;
    assert!(matches!(failure, Err(HandshakeFailure::UntrustedRoot)));
    // What it says of its own domain says nothing of others.
    let friend = of("two", "web");
    let client = RawClient::with(foreign_ca.identity(&friend));
    assert_eq!(client.handshake_with(&db).await.unwrap().peer, friend);
}

#[tokio::test]
async fn lists_of_the_authority_say_nothing_of_other_roots_that_a_certificate_brought() {
    let (files, authority) = (TestCa::new("cluster.local"), TestCa::new("cluster.local"));
    let trust = trusting(&authority);
    let revoked = authority.identity(&id("web"));
    let serial = crate::identity::fixtures::serial(&revoked.chain[0]);
    let list = authority.list(&[&serial], epoch() + HOUR);
    trust.set_own(authority.news(Revocation::Lists(vec![list])));
    // Roots of its own, and the authority's beside them.
    for (bundle, vouched) in [
        (files.bundle(), false),
        (files.bundle_with(&authority), true),
    ] {
        let issued = Issued {
            bundle: Some(bundle),
            ..files.issue_valid(&id("db"), epoch(), epoch() + DAY)
        };
        let db = acquire(issued, epoch(), Arc::clone(&trust))
            .await
            .credential;
        let session = RawClient::with(files.identity(&id("web")))
            .handshake_with(&db)
            .await
            .unwrap();
        session.still_trusted(&trust.current(), epoch()).unwrap();
        // The authority's own are still what its lists say.
        let client = RawClient::with(authority.identity(&id("web")));
        assert_eq!(client.handshake_with(&db).await.is_ok(), vouched);
    }
    let issued = Issued {
        bundle: Some(files.bundle_with(&authority)),
        ..files.issue_valid(&id("db"), epoch(), epoch() + DAY)
    };
    let db = acquire(issued, epoch(), Arc::clone(&trust)).await;
    let failure = RawClient::with(revoked)
        .handshake_with(&db.credential)
        .await
        .expect_err("took who was revoked");
    let is_revoked = matches!(failure, HandshakeFailure::Revoked { .. });
    assert!(is_revoked, "{failure:?}");
}
