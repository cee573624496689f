//! Trust: told, saved, or from files.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, SerialNumber};

use super::fake::{FakeCa, Node, honest, soon};
use super::{istio, told};
use crate::ca::api::{TrustMessage, WATCH_TRUST, certificate};
use crate::ca::client::{RemoteCa, TrustFrom, saved};
use crate::identity::fixtures::{DAY, ManualClock, TestCa, ca_params, domain, epoch, id};
use crate::identity::{
    CertificateAuthority, DomainTrust, KeyId, Revocation, TrustBundle, TrustStore, TrustUpdate,
};

fn state(bundle: TrustBundle, revocation: Revocation) -> TrustMessage {
    TrustMessage::new(&TrustUpdate {
        domain: DomainTrust { bundle, revocation },
        issuer: Some(KeyId::new(&[7])),
    })
}

fn crl(number: u64) -> String {
    let params = CertificateRevocationListParams {
        this_update: epoch().into(),
        next_update: (epoch() + DAY).into(),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let issuer = Issuer::new(ca_params("root"), KeyPair::generate().unwrap());
    params.signed_by(&issuer).unwrap().pem().unwrap()
}

fn store() -> Arc<TrustStore> {
    TrustStore::new(domain("cluster.local"))
}

/// Waits until the own domain's trust is as wanted.
async fn becomes(store: &TrustStore, wanted: impl Fn(&DomainTrust) -> bool) {
    let mut changes = store.subscribe();
    let arrived = changes.wait_for(|_| {
        let now = store.current();
        now.domain(store.own()).is_some_and(|domain| wanted(domain))
    });
    soon(arrived).await.unwrap();
}

fn lists(domain: &DomainTrust) -> Option<usize> {
    match &domain.revocation {
        Revocation::Lists(lists) => Some(lists.len()),
        _ => None,
    }
}

#[tokio::test]
async fn every_change_is_taken_into_force_as_it_is_told() {
    let ca = TestCa::new("cluster.local");
    let mut message = state(ca.bundle(), Revocation::Lists(vec![]));
    let (tell, behaviour) = told(message.clone());
    let server = FakeCa::start(&ca, behaviour).await;
    let node = Node::new(server.address, &ca);
    let (client, store) = (node.client(), store());
    assert_eq!(client.health().trust_from, TrustFrom::Nothing);
    let following = client.follow(Arc::clone(&store));
    becomes(&store, |domain| lists(domain) == Some(0)).await;
    assert_eq!(store.current().issuer(), Some(&KeyId::new(&[7])));

    message.revocation_lists.push(crl(1));
    tell.send_replace(message.clone());
    becomes(&store, |domain| lists(domain) == Some(1)).await;
    let both = ca.bundle_with(&TestCa::new("cluster.local"));
    tell.send_replace(state(both.clone(), Revocation::NotUsed));
    becomes(&store, |domain| domain.bundle == both).await;
    let health = client.health();
    assert_eq!(
        (health.trust_from, health.connected),
        (TrustFrom::Watch, true)
    );
    following.abort();
}

/// Nothing good is thrown away for something that cannot be used.
#[tokio::test]
async fn unusable_trust_leaves_what_was_in_force() {
    let ca = TestCa::new("cluster.local");
    let good = state(ca.bundle(), Revocation::NotUsed);
    let (tell, behaviour) = told(good.clone());
    let mut server = FakeCa::start(&ca, behaviour).await;
    let node = Node::new(server.address, &ca);
    let (client, store) = (node.client(), store());
    let following = client.follow(Arc::clone(&store));
    becomes(&store, |domain| domain.bundle == ca.bundle()).await;
    soon(server.calls.recv()).await.unwrap();
    let mut bad = good.clone();
    bad.roots.clear();
    tell.send_replace(bad);
    // It hangs up and asks again.
    assert_eq!(soon(server.calls.recv()).await.unwrap().0, WATCH_TRUST);
    let error = client.health().last_error.unwrap();
    assert!(
        error.contains("no root") && error.contains(&server.address.to_string()),
        "{error}"
    );
    assert_eq!(store.current().number(), 1);
    let more = ca.bundle_with(&TestCa::new("cluster.local"));
    tell.send_replace(state(more.clone(), Revocation::NotUsed));
    becomes(&store, |domain| domain.bundle == more).await;
    following.abort();
}

/// The certificate of the authority's own server comes from the new root alone, the
/// node's file has the old one: what was told, and saved, opens the way.
#[tokio::test]
async fn an_exchanged_root_locks_nobody_out_and_survives_a_restart() {
    let (old, new) = (TestCa::new("cluster.local"), TestCa::new("cluster.local"));
    let (_tell, behaviour) = told(state(old.bundle_with(&new), Revocation::NotUsed));
    let server = FakeCa::start(&old, behaviour.clone()).await;
    let address = server.address;
    let node = Node::new(address, &old);
    let (client, first) = (node.client(), store());
    let following = client.follow(Arc::clone(&first));
    becomes(&first, |domain| domain.bundle.roots().len() == 2).await;
    // Saved only after it is in force: what comes back from disk is waited for.
    let saved = node.path("state/trust/own.json");
    soon(async {
        while !saved.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    following.abort();
    drop(client);
    server.stop().await;

    // A new run of the agent, while the authority is away.
    let (client, second) = (node.client(), store());
    let following = client.follow(Arc::clone(&second));
    becomes(&second, |domain| domain.bundle == old.bundle_with(&new)).await;
    assert_eq!(client.health().trust_from, TrustFrom::Saved);
    let _server = FakeCa::start_at(address, &new, behaviour).await;
    // The follower may be dialling since before the server was there: who comes then
    // shares that failure, and only the next attempt can do better.
    soon(async { while client.issue(&id("web")).await.is_err() {} }).await;
    following.abort();

    // Without what was saved it would not have trusted the server.
    std::fs::remove_dir_all(node.path("state")).unwrap();
    let error = soon(node.client().issue(&id("web"))).await.unwrap_err();
    assert!(error.to_string().contains("not signed by"), "{error}");
}

#[tokio::test]
async fn trust_saved_from_another_authority_or_by_others_says_nothing() {
    let ca = TestCa::new("cluster.local");
    let message = state(ca.bundle(), Revocation::NotUsed);
    let dir = tempfile::tempdir().unwrap();
    saved::write(dir.path(), "https://a:1", message.clone()).unwrap();
    assert_eq!(
        saved::read(dir.path(), "https://a:1").unwrap(),
        Some(message)
    );
    assert_eq!(saved::read(dir.path(), "https://b:1").unwrap(), None);
    let path = dir.path().join("trust/own.json");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o606)).unwrap();
    let error = saved::read(dir.path(), "https://a:1")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("own.json") && error.contains("0606"),
        "{error}"
    );
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&path, "{").unwrap();
    let error = saved::read(dir.path(), "https://a:1")
        .unwrap_err()
        .to_string();
    assert!(error.contains("damaged"), "{error}");
}

/// istiod, for one, has no `Watch`.
#[tokio::test]
async fn an_authority_that_does_not_tell_leaves_it_to_the_files() {
    let ca = Arc::new(TestCa::new("cluster.local"));
    let server = FakeCa::start(&ca, istio(honest(Arc::clone(&ca)))).await;
    let node = Node::new(server.address, &ca);
    node.write("crl.pem", &crl(1));
    let mut settings = node.settings();
    settings.crl_file = Some(node.path("crl.pem"));
    let client = RemoteCa::new(settings, ManualClock::at(epoch())).unwrap();
    let store = store();
    let following = client.follow(Arc::clone(&store));
    becomes(&store, |domain| {
        lists(domain) == Some(1) && domain.bundle == ca.bundle()
    })
    .await;
    assert_eq!(client.health().trust_from, TrustFrom::Files);

    node.write("crl.pem", &format!("{}{}", crl(2), crl(3)));
    becomes(&store, |domain| lists(domain) == Some(2)).await;
    node.write("crl.pem", "garbage");
    becomes(&store, |domain| {
        matches!(&domain.revocation, Revocation::Unreadable(why) if why.contains("crl.pem"))
    })
    .await;
    let both = ca.bundle_with(&TestCa::new("cluster.local"));
    let pem: String = both.roots().iter().map(|der| certificate(der)).collect();
    node.write("roots.pem", &pem);
    becomes(&store, |domain| domain.bundle == both).await;
    following.abort();
}

#[tokio::test]
async fn watching_goes_on_when_the_authority_comes_back() {
    let ca = TestCa::new("cluster.local");
    let (tell, behaviour) = told(state(ca.bundle(), Revocation::NotUsed));
    let server = FakeCa::start(&ca, behaviour.clone()).await;
    let address = server.address;
    let node = Node::new(address, &ca);
    let (client, store) = (node.client(), store());
    let following = client.follow(Arc::clone(&store));
    becomes(&store, |domain| domain.revocation == Revocation::NotUsed).await;
    server.stop().await;
    let both = ca.bundle_with(&TestCa::new("cluster.local"));
    tell.send_replace(state(both.clone(), Revocation::Lists(vec![])));
    let _server = FakeCa::start_at(address, &ca, behaviour).await;
    becomes(&store, |domain| domain.bundle == both).await;
    following.abort();
}

#[tokio::test]
async fn another_meshs_authority_is_not_followed() {
    let ca = TestCa::new("other.example");
    let (_tell, behaviour) = told(state(ca.bundle(), Revocation::NotUsed));
    let mut server = FakeCa::start(&ca, behaviour).await;
    let node = Node::new(server.address, &ca);
    let (client, store) = (node.client(), store());
    let following = client.follow(Arc::clone(&store));
    for _ in 0..2 {
        soon(server.calls.recv()).await.unwrap();
    }
    let error = client.health().last_error.unwrap();
    assert!(
        error.contains("other.example") && error.contains("cluster.local"),
        "{error}"
    );
    assert!(store.current().domain(store.own()).is_none());
    following.abort();
}

/// So that the authority has seen it when the API server, which it asks, is away later.
#[tokio::test]
async fn a_new_token_is_shown_before_anything_is_wanted() {
    let ca = TestCa::new("cluster.local");
    let (_tell, behaviour) = told(state(ca.bundle(), Revocation::NotUsed));
    let mut server = FakeCa::start(&ca, behaviour).await;
    let node = Node::new(server.address, &ca);
    let store = store();
    let following = node.client().follow(Arc::clone(&store));
    becomes(&store, |domain| domain.bundle == ca.bundle()).await;
    let (path, token) = soon(server.calls.recv()).await.unwrap();
    assert_eq!(
        (path.as_str(), token.as_str()),
        (WATCH_TRUST, "Bearer first")
    );
    node.write("token", "second\n");
    // The time that the token is next looked at may not be set yet.
    let shown = async {
        loop {
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(11)).await;
            tokio::time::resume();
            let call = server.calls.recv();
            if let Ok(call) = tokio::time::timeout(Duration::from_millis(100), call).await {
                break call.unwrap();
            }
        }
    };
    let (path, token) = shown.await;
    assert_eq!(
        (path.as_str(), token.as_str()),
        (WATCH_TRUST, "Bearer second")
    );
    following.abort();
}
