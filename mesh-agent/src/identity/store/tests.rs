//! Sharing and renewing credentials, on tokio's paused clock.

use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::duplex;
use tokio::time::{Instant, sleep};

use super::*;
use crate::identity::fixtures::{DAY, HOUR, TestCa, TokioClock, epoch, id, trusting};
use crate::identity::{BoxFuture, Issued, Svid, TrustBundle};
use crate::tls::{ConfigError, HandshakeFailure, TlsSettings};

/// An authority that certifies for a day, fails or hangs on demand, and counts.
struct ScriptedCa {
    ca: TestCa,
    clock: Arc<TokioClock>,
    asked: AtomicU64,
    down: AtomicBool,
    hangs: AtomicBool,
}

#[derive(Debug, thiserror::Error)]
#[error("the authority is down")]
struct Down;

impl ScriptedCa {
    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    fn set_hangs(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::SeqCst);
    }
}

impl CertificateAuthority for ScriptedCa {
    fn issue<'a>(&'a self, id: &'a SpiffeId) -> BoxFuture<'a, Result<Issued, IssueError>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if self.hangs.load(Ordering::SeqCst) {
                pending::<()>().await;
            }
            // As over a network: others run while the answer is on its way.
            sleep(Duration::from_millis(50)).await;
            if self.down.load(Ordering::SeqCst) {
                let source = Arc::new(Down);
                return Err(IssueError::Authority {
                    id: id.clone(),
                    source,
                });
            }
            let now = self.clock.now();
            Ok(self.ca.issue_valid(id, now, now + DAY))
        })
    }
}

fn store_of(
    authority: Arc<dyn CertificateAuthority>,
    trust: Arc<TrustStore>,
    clock: Arc<TokioClock>,
) -> Arc<SvidStore> {
    let parameters = ParametersStore::new(TlsSettings::default());
    SvidStore::with_clock(authority, trust, parameters, clock)
}

fn store() -> (Arc<SvidStore>, Arc<ScriptedCa>, Arc<TokioClock>) {
    let clock = TokioClock::start();
    let ca = Arc::new(ScriptedCa {
        ca: TestCa::new("cluster.local"),
        clock: clock.clone(),
        asked: AtomicU64::new(0),
        down: AtomicBool::new(false),
        hangs: AtomicBool::new(false),
    });
    let store = store_of(ca.clone(), trusting(&ca.ca), clock.clone());
    (store, ca, clock)
}

/// Lets virtual time pass until something holds, for ten virtual days at most.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < 10 * DAY, "{what}: not within ten days");
        sleep(Duration::from_secs(1)).await;
    }
}

/// The serial number that a fresh handshake shows to a peer.
async fn presented_serial(credential: &Credential) -> String {
    let (client, server) = duplex(64 * 1024);
    let (client, server) = tokio::join!(
        crate::tls::connect(credential, credential.id(), client),
        crate::tls::accept(credential, server)
    );
    server.unwrap();
    let client = client.unwrap().stream;
    let chain = client.get_ref().1.peer_certificates().unwrap();
    crate::identity::leaf::read(&chain[0]).unwrap().serial
}

#[tokio::test(start_paused = true)]
async fn callers_of_one_identity_share_one_credential() {
    let (store, ca, _) = store();
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.acquire(&id("web")).await.unwrap() })
        })
        .collect();
    let mut held = Vec::new();
    for caller in callers {
        held.push(caller.await.unwrap());
    }
    assert_eq!(ca.asked(), 1);
    assert!(
        held.iter()
            .all(|credential| Arc::ptr_eq(credential, &held[0]))
    );
    let other = store.acquire(&id("db")).await.unwrap();
    assert_eq!(ca.asked(), 2);
    let listed: Vec<_> = store.list().into_iter().map(|info| info.id).collect();
    assert_eq!(listed, [id("db"), id("web")]);
    assert_eq!(other.info().generation, 1);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_holds_is_forgotten_and_no_longer_renewed() {
    let (store, ca, _) = store();
    drop(store.acquire(&id("web")).await.unwrap());
    assert!(store.list().is_empty());
    sleep(3 * DAY).await;
    assert_eq!(ca.asked(), 1, "a credential that nobody holds was renewed");
    store.acquire(&id("web")).await.unwrap();
    assert_eq!(ca.asked(), 2);
    assert_eq!(store.slots().len(), 1);
    store.acquire(&id("db")).await.unwrap();
    assert_eq!(
        store.slots().len(),
        1,
        "the slot of a dropped credential stays"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_to_all_who_wait_and_is_not_remembered() {
    let (store, ca, _) = store();
    ca.set_down(true);
    let (web_1, web_2) = (id("web"), id("web"));
    let (one, two) = tokio::join!(store.acquire(&web_1), store.acquire(&web_2));
    for outcome in [one, two] {
        let error = outcome
            .expect_err("issued by an authority that is down")
            .to_string();
        assert!(
            error.contains("the authority is down") && error.contains("sa/web"),
            "{error}"
        );
    }
    assert_eq!(ca.asked(), 1);
    ca.set_down(false);
    store.acquire(&id("web")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_takes_nothing_from_the_others() {
    let (store, ca, _) = store();
    let web = id("web");
    tokio::select! {
        biased;
        _ = store.acquire(&web) => panic!("the authority takes 50 ms"),
        () = sleep(Duration::from_millis(10)) => {}
    }
    store.acquire(&web).await.unwrap();
    assert_eq!(ca.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_never_answers_is_given_up() {
    let (store, ca, _) = store();
    ca.set_hangs(true);
    let outcome = store.acquire(&id("web")).await;
    assert!(
        matches!(outcome, Err(IssueError::TimedOut { .. })),
        "{outcome:?}"
    );
}

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

/// An authority that answers every question with the same thing.
struct Careless(TestCa, fn(&TestCa) -> Issued);

impl CertificateAuthority for Careless {
    fn issue<'a>(&'a self, _: &'a SpiffeId) -> BoxFuture<'a, Result<Issued, IssueError>> {
        let issued = (self.1)(&self.0);
        Box::pin(async move { Ok(issued) })
    }
}

async fn refused_from(careless: fn(&TestCa) -> Issued) -> IssueError {
    let ca = TestCa::new("cluster.local");
    let trust = trusting(&ca);
    refused_under(trust, ca, careless).await
}

async fn refused_under(
    trust: Arc<TrustStore>,
    ca: TestCa,
    careless: fn(&TestCa) -> Issued,
) -> IssueError {
    store_of(Arc::new(Careless(ca, careless)), trust, TokioClock::start())
        .acquire(&id("web"))
        .await
        .expect_err("a careless authority was believed")
}

fn unusable(error: &IssueError) -> &ConfigError {
    match error {
        IssueError::Unusable { source, .. } => source,
        other => panic!("{other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn what_peers_would_refuse_is_not_taken_from_an_authority() {
    let error = refused_from(|ca| ca.issue_valid(&id("db"), epoch(), epoch() + DAY)).await;
    assert!(matches!(error, IssueError::OtherIdentity { .. }));

    let expired = |ca: &TestCa| ca.issue_valid(&id("web"), epoch() - DAY, epoch() - HOUR);
    let error = refused_from(expired).await;
    let expired = matches!(
        unusable(&error),
        ConfigError::Refusable(HandshakeFailure::Expired)
    );
    assert!(expired, "{error}");

    let foreign = |_: &TestCa| {
        let other = TestCa::new("cluster.local");
        other.issue_valid(&id("web"), epoch(), epoch() + DAY)
    };
    let error = refused_from(foreign).await;
    let untrusted = matches!(
        unusable(&error),
        ConfigError::Refusable(HandshakeFailure::UntrustedRoot)
    );
    assert!(untrusted, "{error}");

    let error = refused_from(|ca| {
        let [web, other] = [(); 2].map(|()| ca.identity(&id("web")));
        Issued {
            svid: Svid::new(web.chain, other.key).unwrap(),
            bundle: None,
        }
    });
    let error = error.await;
    assert!(matches!(unusable(&error), ConfigError::Key(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn without_a_root_nothing_is_taken_into_use() {
    let fine = |ca: &TestCa| ca.issue_valid(&id("web"), epoch(), epoch() + DAY);
    let nobody = TrustStore::new(id("web").trust_domain().clone());
    let error = refused_under(nobody, TestCa::new("cluster.local"), fine).await;
    assert!(matches!(unusable(&error), ConfigError::NoRoot), "{error}");

    let error = refused_from(|ca| Issued {
        bundle: Some(TrustBundle::new(
            ca.bundle().trust_domain().clone(),
            Vec::new(),
        )),
        ..ca.issue_valid(&id("web"), epoch(), epoch() + DAY)
    });
    let error = error.await;
    assert!(matches!(unusable(&error), ConfigError::NoRoot), "{error}");

    let error = refused_from(|ca| Issued {
        bundle: Some(TestCa::new("example.org").bundle()),
        ..ca.issue_valid(&id("web"), epoch(), epoch() + DAY)
    });
    let error = error.await;
    let other = matches!(unusable(&error), ConfigError::OtherBundle { .. });
    assert!(other, "{error}");
}
