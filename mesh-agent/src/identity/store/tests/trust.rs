//! Certificates follow trust: another issuer, a revocation, a root that is gone,
//! other TLS settings, a file that changed.

use super::*;
use crate::identity::fixtures::{Identity, serial};
use crate::identity::{DomainTrust, Revocation, TrustUpdate};

fn trust_in(bundle: TrustBundle, signing: &TestCa) -> TrustUpdate {
    TrustUpdate {
        domain: DomainTrust {
            bundle,
            revocation: Revocation::NotUsed,
        },
        issuer: Some(signing.key_id()),
    }
}

/// A store whose trust the test holds.
fn scene() -> (Arc<SvidStore>, Arc<ScriptedCa>, Arc<TrustStore>) {
    let (store, ca, _) = store();
    let trust = Arc::clone(&store.means.trust);
    (store, ca, trust)
}

async fn hold(store: &Arc<SvidStore>, count: usize) -> Vec<Arc<Credential>> {
    let mut held = Vec::new();
    for number in 0..count {
        held.push(store.acquire(&id(&format!("web-{number}"))).await.unwrap());
    }
    held
}

fn renewed(held: &[Arc<Credential>]) -> usize {
    held.iter()
        .filter(|credential| credential.info().generation > 1)
        .count()
}

#[tokio::test(start_paused = true)]
async fn a_new_issuer_has_all_renewed_soon_and_not_all_together() {
    let (store, ca, trust) = scene();
    let held = hold(&store, 100).await;
    let old = ca.ca.load_full();
    let new = Arc::new(TestCa::new("cluster.local"));
    ca.ca.store(Arc::clone(&new));
    trust.set_own(trust_in(old.bundle_with(&new), &new));
    sleep(Duration::from_secs(60)).await;
    let early = renewed(&held);
    assert!(
        (5..50).contains(&early),
        "{early} of 100 in the first of five minutes"
    );
    sleep(Duration::from_secs(300)).await;
    assert_eq!(renewed(&held), 100);
    assert_eq!(ca.asked(), 200);
    assert!(
        held.iter()
            .all(|credential| credential.info().issuer == Some(new.key_id()))
    );
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_says_one_issuer_and_uses_another_is_asked_once() {
    let (store, ca, trust) = scene();
    let held = hold(&store, 1).await;
    let announced = TestCa::new("cluster.local");
    for _ in 0..3 {
        trust.set_own(trust_in(ca.ca.load().bundle_with(&announced), &announced));
        sleep(HOUR).await;
        trust.announce();
    }
    assert_eq!(held[0].info().generation, 2);
    assert_eq!(ca.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_revoked_and_the_untrusted_are_renewed_at_once() {
    let (store, ca, trust) = scene();
    let held = hold(&store, 2).await;
    let authority = ca.ca.load_full();
    let revoked = held[0].info().serial;
    let list = authority.list(&[&revoked], epoch() + 10 * DAY);
    trust.set_own(authority.news(Revocation::Lists(vec![list])));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(
        [held[0].info().generation, held[1].info().generation],
        [2, 1]
    );

    // The root goes away under all of them.
    let new = Arc::new(TestCa::new("cluster.local"));
    ca.ca.store(Arc::clone(&new));
    trust.set_own(trust_in(new.bundle(), &new));
    sleep(Duration::from_secs(3)).await;
    assert_eq!(
        [held[0].info().generation, held[1].info().generation],
        [3, 2]
    );
}

#[tokio::test(start_paused = true)]
async fn lists_that_went_stale_keep_no_certificate_from_being_renewed() {
    let (store, ca, trust) = scene();
    let held = hold(&store, 1).await;
    let authority = ca.ca.load_full();
    let list = authority.list(&[], epoch() + HOUR);
    trust.set_own(authority.news(Revocation::Lists(vec![list])));
    sleep(3 * DAY).await;
    let info = held[0].info();
    assert!(
        info.generation > 5 && info.renewal_failure.is_none(),
        "{info:?}"
    );
    store.acquire(&id("new")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn while_renewals_hang_a_new_pod_gets_its_certificate() {
    let (store, ca, trust) = scene();
    let held = hold(&store, 100).await;
    ca.set_hangs(true);
    // All want another certificate in this instant.
    let new = Arc::new(TestCa::new("cluster.local"));
    ca.ca.store(Arc::clone(&new));
    trust.set_own(trust_in(new.bundle(), &new));
    sleep(Duration::from_secs(1)).await;
    let asked = ca.asked();
    // As many as may be renewals, and no more.
    assert_eq!(asked, 112);
    let start = Instant::now();
    store.acquire(&id("new")).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(renewed(&held), 0);
    ca.set_hangs(false);
    eventually("the others' turn", || renewed(&held) == 100).await;
}

#[tokio::test(start_paused = true)]
async fn other_tls_settings_are_another_generation() {
    let (store, _, _) = scene();
    let credential = store.acquire(&id("web")).await.unwrap();
    let before = credential.generation();
    let words = crate::tls::TlsWords {
        minimum: Some("TLSV1_2"),
        ..crate::tls::TlsWords::default()
    };
    let settings = TlsSettings::read(words).unwrap();
    store.means.parameters.set(settings);
    assert_eq!(credential.generation(), before + 1);
    assert_eq!(credential.info().generation, 1);
    presented_serial(&credential).await;
}

/// Files that hold one certificate until they are exchanged.
struct Files(TestCa, Mutex<Identity>, AtomicU64);

impl CertificateAuthority for Files {
    fn issue<'a>(&'a self, _: &'a SpiffeId) -> BoxFuture<'a, Result<Issued, IssueError>> {
        self.2.fetch_add(1, Ordering::SeqCst);
        let Identity { chain, key } = &*self.1.lock().unwrap();
        let svid = Svid::new(chain.clone(), key.clone_key()).unwrap();
        let bundle = Some(self.0.bundle());
        Box::pin(async move { Ok(Issued { svid, bundle }) })
    }

    fn source(&self, _: &SpiffeId) -> Arc<str> {
        "web.pem".into()
    }
}

#[tokio::test(start_paused = true)]
async fn files_are_read_again_when_they_change_and_the_same_is_no_renewal() {
    let ca = TestCa::new("cluster.local");
    let trust = TrustStore::new(ca.bundle().trust_domain().clone());
    let first = ca.identity(&id("web"));
    let files = Arc::new(Files(ca, first.into(), AtomicU64::new(0)));
    let store = store_of(files.clone(), trust, TokioClock::start());
    let credential = store.acquire(&id("web")).await.unwrap();
    assert_eq!(&*credential.info().source, "web.pem");
    let before = credential.info().serial;

    sleep(15 * HOUR).await;
    assert!(files.2.load(Ordering::SeqCst) > 1, "not looked at again");
    assert_eq!(credential.generation(), 1);
    assert_eq!(credential.info().serial, before);

    let second = files.0.identity(&id("web"));
    let expected = serial(&second.chain[0]);
    *files.1.lock().unwrap() = second;
    store.renew(&id("web"));
    store.renew(&id("nobody"));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(credential.generation(), 2);
    assert_eq!(*credential.info().serial, *expected);
    assert_eq!(presented_serial(&credential).await, expected);

    // To the last second, without being read over and over, and said when it is over.
    sleep(10 * HOUR).await;
    let asked = files.2.load(Ordering::SeqCst);
    assert!(asked < 24 * 60, "read {asked} times in a day");
    assert!(credential.usable().is_err());
    let info = credential.info();
    assert!(info.left.is_zero() && info.attempts > 0 && info.failing_since.is_some());
}
