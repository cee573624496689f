//! When certificates are renewed, and what happens while they cannot be.

use super::*;

#[tokio::test(start_paused = true)]
async fn certificates_are_renewed_about_half_way_and_used_at_once() {
    let (store, ca, clock) = store();
    let credential = store.acquire(&id("web")).await.unwrap();
    let first = credential.info();
    assert_eq!(presented_serial(&credential).await, *first.serial);

    eventually("renewal", || credential.generation() == 2).await;
    let age = clock.now().duration_since(first.not_before).unwrap();
    // 40 to 50 %, and the steps in which the clock and this test look.
    assert!(
        age >= DAY * 2 / 5 && age < DAY / 2 + Duration::from_secs(120),
        "{age:?}"
    );
    let second = credential.info();
    assert_ne!(second.serial, first.serial);
    assert!(second.not_after > first.not_after);
    assert_eq!(presented_serial(&credential).await, *second.serial);

    eventually("the next renewal", || credential.generation() == 3).await;
    assert_eq!(ca.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn through_an_outage_the_certificate_is_kept_to_its_last_second() {
    let (store, ca, clock) = store();
    let credential = store.acquire(&id("web")).await.unwrap();
    let first = credential.info();
    ca.set_down(true);

    eventually("a failed renewal", || {
        credential.info().renewal_failure.is_some()
    })
    .await;
    let failure = credential.info().renewal_failure.unwrap().to_string();
    assert!(failure.contains("the authority is down"), "{failure}");
    assert_eq!(presented_serial(&credential).await, *first.serial);

    let last_second = first.not_after.duration_since(clock.now()).unwrap();
    sleep(last_second).await;
    assert_eq!(clock.now(), first.not_after);
    assert_eq!(presented_serial(&credential).await, *first.serial);
    let attempts = ca.asked();
    assert!(attempts > 100, "only {attempts} attempts in half a day");
    assert!(
        attempts < 2 * 12 * 60,
        "{attempts} attempts in half a day: no backoff"
    );

    sleep(Duration::from_secs(1)).await;
    let expired = CredentialError::Expired {
        id: id("web"),
        not_after: first.not_after,
    };
    assert_eq!(credential.server_config().err(), Some(expired.clone()));
    assert_eq!(credential.client_config(&id("db")).err(), Some(expired));
    let (_peer, io) = duplex(1024);
    let refused = crate::tls::accept(&credential, io).await;
    assert!(matches!(refused, Err(HandshakeFailure::Credential(_))));

    ca.set_down(false);
    eventually("recovery", || credential.generation() == 2).await;
    assert!(credential.info().renewal_failure.is_none());
    assert_ne!(presented_serial(&credential).await, *first.serial);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_renewal_is_given_up_and_tried_again() {
    let (store, ca, _) = store();
    let credential = store.acquire(&id("web")).await.unwrap();
    ca.set_hangs(true);
    eventually("a failed renewal", || {
        credential.info().renewal_failure.is_some()
    })
    .await;
    ca.set_hangs(false);
    eventually("renewal", || credential.generation() == 2).await;
}

/// An authority whose certificates are always about to end, and which counts.
struct Breathless(AtomicU64, TestCa, Arc<TokioClock>);

impl CertificateAuthority for Breathless {
    fn issue<'a>(&'a self, id: &'a SpiffeId) -> BoxFuture<'a, Result<Issued, IssueError>> {
        let asked = self.0.fetch_add(1, Ordering::SeqCst);
        let now = self.2.now();
        // Certificates count whole seconds: this one ends with the current one.
        let issued = self.1.issue_valid(id, now - HOUR, now);
        Box::pin(async move {
            if asked > 1000 {
                // Far too often already: end what would never let time pass.
                pending::<()>().await;
            }
            Ok(issued)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn an_authority_is_not_asked_without_pause() {
    let clock = TokioClock::start();
    let ca = TestCa::new("cluster.local");
    let trust = trusting(&ca);
    let ca = Arc::new(Breathless(AtomicU64::new(0), ca, clock.clone()));
    let store = store_of(ca.clone(), trust, clock);
    let credential = store.acquire(&id("web")).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    let asked = ca.0.load(Ordering::SeqCst);
    assert!(credential.generation() > 2, "not renewed at all");
    assert!(asked <= 62, "asked {asked} times in a minute");
}
