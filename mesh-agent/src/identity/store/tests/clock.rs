//! The wall clock is set, forwards and back, while the machine's own time goes on.

use super::*;
use crate::identity::fixtures::leaf_params;

/// Tokio's time and an offset that the test sets, in seconds.
#[derive(Debug)]
struct Adjusted(TokioClock, Mutex<i64>);

impl Adjusted {
    fn start() -> Arc<Self> {
        Arc::new(Self(*TokioClock::start(), Mutex::default()))
    }

    fn shift(&self, seconds: i64) {
        *self.1.lock().unwrap() += seconds;
    }
}

impl Clock for Adjusted {
    fn now(&self) -> std::time::SystemTime {
        let offset = *self.1.lock().unwrap();
        let by = Duration::from_secs(offset.unsigned_abs());
        match offset < 0 {
            true => self.0.now() - by,
            false => self.0.now() + by,
        }
    }
}

/// An authority on that clock, down on demand.
struct OnClock(TestCa, Arc<Adjusted>, AtomicBool, AtomicU64);

impl CertificateAuthority for OnClock {
    fn issue<'a>(&'a self, id: &'a SpiffeId) -> BoxFuture<'a, Result<Issued, IssueError>> {
        self.3.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            if self.2.load(Ordering::SeqCst) {
                return Err(IssueError::Abandoned(id.clone()));
            }
            let now = self.1.now();
            let mut params = leaf_params(&[&id.to_string()]);
            params.not_before = now.into();
            params.not_after = (now + DAY).into();
            let signed = self.0.sign(params);
            let svid = Svid::new(signed.chain, signed.key).unwrap();
            Ok(Issued { svid, bundle: None })
        })
    }
}

async fn scene() -> (Arc<SvidStore>, Arc<Credential>, Arc<OnClock>, Arc<Adjusted>) {
    let clock = Adjusted::start();
    let ca = TestCa::new("cluster.local");
    let trust = trusting(&ca);
    let authority = OnClock(
        ca,
        clock.clone(),
        AtomicBool::default(),
        AtomicU64::default(),
    );
    let authority = Arc::new(authority);
    let store = store_of(authority.clone(), trust, clock.clone());
    let credential = store.acquire(&id("web")).await.unwrap();
    (store, credential, authority, clock)
}

#[tokio::test(start_paused = true)]
async fn set_forwards_the_renewal_that_became_due_comes_within_a_minute() {
    // As after a night in which the machine was suspended.
    let (_store, credential, _, clock) = scene().await;
    sleep(HOUR).await;
    clock.shift(15 * 3600);
    sleep(Duration::from_secs(61)).await;
    assert_eq!(credential.generation(), 2);
    assert!(credential.usable().is_ok());

    clock.shift(40 * 3600);
    assert!(credential.usable().is_err());
    sleep(Duration::from_secs(61)).await;
    assert!(credential.usable().is_ok());
}

#[tokio::test(start_paused = true)]
async fn set_back_before_the_certificate_another_is_asked_for() {
    let (_store, credential, authority, clock) = scene().await;
    sleep(HOUR).await;
    clock.shift(-3 * 24 * 3600);
    sleep(Duration::from_secs(61)).await;
    let info = credential.info();
    assert_eq!(info.generation, 2);
    assert!(info.not_before < clock.now() && clock.now() < info.not_after);
    assert_eq!(presented_serial(&credential).await, *info.serial);

    // A little earlier is nothing: it stays, and is renewed in its time.
    sleep(HOUR).await;
    clock.shift(-600);
    sleep(HOUR).await;
    assert_eq!(authority.3.load(Ordering::SeqCst), 2);
    eventually("renewal", || credential.generation() == 3).await;
}

#[tokio::test(start_paused = true)]
async fn set_back_in_an_outage_attempts_go_on() {
    let (_store, credential, authority, clock) = scene().await;
    authority.2.store(true, Ordering::SeqCst);
    eventually("an attempt", || credential.info().attempts > 10).await;
    clock.shift(-5 * 3600);
    let before = authority.3.load(Ordering::SeqCst);
    sleep(Duration::from_secs(600)).await;
    assert!(authority.3.load(Ordering::SeqCst) >= before + 9);
    authority.2.store(false, Ordering::SeqCst);
    sleep(Duration::from_secs(61)).await;
    assert_eq!(credential.generation(), 2);
}
