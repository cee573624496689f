//! Revoked peers, and peers of whom it cannot be known, in both directions and
//! under both policies.

use std::sync::Arc;

use rustls::pki_types::CertificateRevocationListDer;

use super::peers::{Timed, acquire};
use super::*;
use crate::identity::fixtures::{Identity, serial, trusting};
use crate::identity::{Revocation, RevocationStatus, StaleLists, TrustStore};

/// A mesh whose server is judged, and a peer that is to be revoked.
struct Scene {
    ca: TestCa,
    trust: Arc<TrustStore>,
    db: Timed,
    client: RawClient,
    server: RawServer,
    serials: [String; 2],
}

impl Scene {
    async fn new() -> Self {
        let ca = TestCa::new("cluster.local");
        let trust = trusting(&ca);
        let issued = ca.issue_valid(&id("db"), epoch(), epoch() + DAY);
        let db = acquire(issued, epoch(), Arc::clone(&trust)).await;
        let [one, two] = [(); 2].map(|()| ca.identity(&id("web")));
        let of = |identity: &Identity| serial(&identity.chain[0]);
        Self {
            serials: [of(&one), of(&two)],
            client: RawClient::with(one),
            server: RawServer::with(two),
            ca,
            trust,
            db,
        }
    }

    fn publish(&self, revocation: Revocation) {
        self.trust.set_own(self.ca.news(revocation));
    }

    fn lists(&self, lists: Vec<CertificateRevocationListDer<'static>>) {
        self.publish(Revocation::Lists(lists));
    }

    /// The list of this authority, which revokes both peers, or nobody.
    fn list(&self, revoked: bool) -> CertificateRevocationListDer<'static> {
        let serials: Vec<_> = self.serials.iter().map(String::as_str).collect();
        let serials = if revoked { &serials[..] } else { &[] };
        self.ca.list(serials, epoch() + HOUR)
    }

    /// What the mesh's two ends make of the peer.
    async fn judged(&self) -> [Result<Session, HandshakeFailure>; 2] {
        let db = &self.db.credential;
        let client = self.client.handshake_with(db).await;
        [client, self.server.handshake_with(db, &id("web")).await]
    }

    async fn fine(&self) -> [Session; 2] {
        self.judged().await.map(Result::unwrap)
    }

    async fn unknown(&self, expected: fn(&RevocationFault) -> bool) {
        for outcome in self.judged().await {
            let failure = outcome.expect_err("nobody knows, and it was let through");
            let fits = matches!(&failure, HandshakeFailure::RevocationUnknown { peer, why }
                if *peer == id("web") && expected(why));
            assert!(fits, "{failure:?}");
        }
    }

    async fn revoked(&self) {
        for (outcome, of) in self.judged().await.into_iter().zip(&self.serials) {
            let failure = outcome.expect_err("a revoked peer was let through");
            let fits = matches!(&failure, HandshakeFailure::Revoked { peer, serial }
                if *peer == id("web") && serial == of);
            assert!(fits, "{failure:?}");
        }
    }
}

#[tokio::test]
async fn the_revoked_are_refused_from_the_next_handshake_on_and_told_so() {
    let scene = Scene::new().await;
    scene.lists(vec![scene.list(false)]);
    let sessions = scene.fine().await;
    scene.lists(vec![scene.list(true)]);
    scene.revoked().await;
    for (session, of) in sessions.iter().zip(&scene.serials) {
        let cut = session.still_trusted(&scene.trust.current(), epoch());
        let revoked = matches!(&cut, Err(HandshakeFailure::Revoked { serial, .. }) if serial == of);
        assert!(revoked, "{cut:?}");
    }
    let (_, seen) = scene.client.handshake_and_read(&scene.db.credential).await;
    let seen = handshake_failure(&seen.expect_err("the client was not told"));
    let alert = AlertDescription::CertificateRevoked;
    assert!(
        matches!(seen, HandshakeFailure::RefusedByPeer(got) if got == alert),
        "{seen:?}"
    );
    assert!(seen.to_string().contains("revoked"), "{seen}");

    // Others under the same list go on.
    let other = RawClient::with(scene.ca.identity(&id("web")));
    other.handshake_with(&scene.db.credential).await.unwrap();
}

#[tokio::test]
async fn a_list_past_its_time_is_the_policys_matter_and_revokes_all_the_same() {
    let scene = Scene::new().await;
    scene.lists(vec![scene.list(false)]);
    let domain = scene.trust.own().clone();
    let status = |now| scene.trust.current().revocation(&domain, now).unwrap();
    let until = Some(epoch() + HOUR);
    scene.db.clock.set(epoch() + HOUR);
    assert_eq!(status(epoch() + HOUR), RevocationStatus::Fresh { until });
    let sessions = scene.fine().await;

    let late = epoch() + HOUR + std::time::Duration::from_secs(1);
    scene.db.clock.set(late);
    let since = epoch() + HOUR;
    assert_eq!(status(late), RevocationStatus::Stale { since });
    scene
        .unknown(|why| *why == RevocationFault::Stale(epoch() + HOUR))
        .await;
    // Nothing that lives is cut for it.
    for session in &sessions {
        session
            .still_trusted(&scene.trust.current(), epoch())
            .unwrap();
    }
    scene.trust.set_stale(StaleLists::Allow);
    scene.fine().await;

    for stale in [StaleLists::Allow, StaleLists::Refuse] {
        scene.trust.set_stale(stale);
        scene.lists(vec![scene.list(true)]);
        scene.revoked().await;
        scene.lists(vec![scene.list(false)]);
    }
    // A newer list beside the old one: it counts.
    let newer = scene.ca.list_from(late, &[], late + HOUR);
    scene.lists(vec![scene.list(true), newer]);
    scene.fine().await;
}

#[tokio::test]
async fn what_should_be_there_and_cannot_be_read_is_the_policys_matter_too() {
    let scene = Scene::new().await;
    let junk = || CertificateRevocationListDer::from(b"junk".to_vec());
    let domain = scene.trust.own().clone();
    for revocation in [
        Revocation::Unreadable("crl.pem: permission denied".into()),
        Revocation::Lists(vec![junk()]),
    ] {
        scene.trust.set_stale(StaleLists::Refuse);
        scene.publish(revocation);
        scene
            .unknown(|why| matches!(why, RevocationFault::Unreadable(_)))
            .await;
        let status = scene.trust.current().revocation(&domain, epoch());
        let unreadable = matches!(status, Some(RevocationStatus::Unreadable(_)));
        assert!(unreadable, "{status:?}");
        scene.trust.set_stale(StaleLists::Allow);
        scene.fine().await;
    }
    // What can be read counts, whatever else is there.
    scene.lists(vec![junk(), scene.list(true)]);
    scene.revoked().await;
}

#[tokio::test]
async fn lists_of_others_say_nothing_of_an_issuer() {
    let scene = Scene::new().await;
    let other = TestCa::new("cluster.local");
    let all: Vec<_> = scene.serials.iter().map(String::as_str).collect();
    // The other authority has the same name and another key: its list is not ours,
    // beside ours or alone.
    let foreign = other.list(&all, epoch() + HOUR);
    scene.lists(vec![foreign.clone(), scene.list(false)]);
    scene.fine().await;
    for stale in [StaleLists::Refuse, StaleLists::Allow] {
        scene.trust.set_stale(stale);
        for lists in [vec![foreign.clone()], Vec::new()] {
            scene.lists(lists);
            scene.unknown(|why| *why == RevocationFault::NoList).await;
        }
    }
    let (_, seen) = scene.client.handshake_and_read(&scene.db.credential).await;
    let seen = handshake_failure(&seen.expect_err("the client was not told"));
    let alert = AlertDescription::UnknownCA;
    assert!(matches!(seen, HandshakeFailure::RefusedByPeer(got) if got == alert));
}

#[tokio::test]
async fn a_list_with_a_broken_signature_is_not_believed() {
    let scene = Scene::new().await;
    let mut forged = scene.list(false).to_vec();
    *forged.last_mut().unwrap() ^= 1;
    scene.lists(vec![forged.into()]);
    scene
        .unknown(|why| matches!(why, RevocationFault::Unreadable(_)))
        .await;
}
