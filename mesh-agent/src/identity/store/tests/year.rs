//! A year of rotation on the paused clock, with an authority as authorities are.

use super::*;
use crate::identity::fixtures::{Identity, leaf_params};
use crate::tls::random_fraction;

/// How an authority behaves for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mood {
    Fine,
    Slow,
    Down,
    Hangs,
    CertifiesOthers,
    SendsExpired,
    IsSomebodyElse,
    MixesKeysUp,
}

const BAD: [Mood; 6] = [
    Mood::Down,
    Mood::Hangs,
    Mood::CertifiesOthers,
    Mood::SendsExpired,
    Mood::IsSomebodyElse,
    Mood::MixesKeysUp,
];

/// How often the year's test looks.
const LOOK: Duration = Duration::from_secs(300);

struct Moody {
    ca: TestCa,
    /// What it sends in a mood, made once: attempts are many.
    garbage: HashMap<Mood, Identity>,
    clock: Arc<TokioClock>,
    mood: Mutex<Mood>,
    asked: AtomicU64,
}

impl CertificateAuthority for Moody {
    fn issue<'a>(&'a self, id: &'a SpiffeId) -> BoxFuture<'a, Result<Issued, IssueError>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let mood = *self.mood.lock().unwrap();
            let wait = if mood == Mood::Slow { 25_000 } else { 50 };
            sleep(Duration::from_millis(wait)).await;
            let now = self.clock.now();
            Ok(match mood {
                Mood::Fine | Mood::Slow => self.ca.issue_valid(id, now, now + DAY),
                Mood::Hangs => pending().await,
                Mood::Down => {
                    return Err(IssueError::Authority {
                        id: id.clone(),
                        source: Arc::new(Down),
                    });
                }
                garbage => {
                    let Identity { chain, key } = &self.garbage[&garbage];
                    let svid = Svid::new(chain.clone(), key.clone_key()).unwrap();
                    Issued { svid, bundle: None }
                }
            })
        })
    }
}

impl Moody {
    fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }
}

fn scene() -> (Arc<SvidStore>, Arc<Moody>, Arc<TokioClock>) {
    let clock = TokioClock::start();
    let ca = TestCa::new("cluster.local");
    let mut expired = leaf_params(&[&id("web").to_string()]);
    expired.not_before = (epoch() - DAY).into();
    expired.not_after = (epoch() - HOUR).into();
    let garbage = HashMap::from([
        (Mood::CertifiesOthers, ca.identity(&id("other"))),
        (Mood::SendsExpired, ca.sign(expired)),
        (
            Mood::IsSomebodyElse,
            TestCa::new("cluster.local").identity(&id("web")),
        ),
        (
            Mood::MixesKeysUp,
            Identity {
                key: ca.identity(&id("web")).key,
                ..ca.identity(&id("web"))
            },
        ),
    ]);
    let authority = Arc::new(Moody {
        ca,
        garbage,
        clock: clock.clone(),
        mood: Mutex::new(Mood::Fine),
        asked: AtomicU64::new(0),
    });
    let store = store_of(authority.clone(), trusting(&authority.ca), clock.clone());
    (store, authority, clock)
}

#[tokio::test(start_paused = true)]
async fn through_a_year_of_outages_a_usable_certificate_is_held_at_every_moment() {
    let (store, authority, clock) = scene();
    let credential = store.acquire(&id("web")).await.unwrap();
    let (mut bad, mut bad_time, mut handshakes) = (0, Duration::ZERO, 0);
    while clock.now() < epoch() + 365 * DAY {
        // Half of a day is left when renewal is due, at least: outages are shorter.
        let mood = BAD[bad % BAD.len()];
        let outage = HOUR.mul_f64(11.0 * random_fraction());
        let between = HOUR.mul_f64(0.5 + 8.0 * random_fraction());
        let kind = if bad % 2 == 0 { Mood::Fine } else { Mood::Slow };
        bad += 1;
        bad_time += outage;
        for (mood, time) in [(mood, outage), (kind, between)] {
            authority.is(mood);
            let until = clock.now() + time;
            while clock.now() < until {
                sleep(LOOK).await;
                let info = credential.info();
                assert!(credential.usable().is_ok(), "{mood:?}: {info:?}");
                // So it is until the next look as well.
                assert!(info.left > LOOK, "{mood:?}: {info:?}");
            }
        }
        let shown = presented_serial(&credential).await;
        assert_eq!(shown, *credential.info().serial);
        handshakes += 1;
    }
    let renewals = credential.generation();
    // Two a day and more, less what the outages put off.
    assert!((500..1000).contains(&renewals), "{renewals} renewals");
    assert!(handshakes > 300 && bad > 300);
    // Two attempts a minute at most while it is bad, and a few at the start of each.
    let bound = bad_time.as_secs() / 30 + 10 * bad as u64 + 2 * renewals;
    let asked = authority.asked();
    assert!(asked < bound, "asked {asked} times, of {bound}");
    assert!(asked > renewals + bad as u64, "no outage met a renewal");
}

#[tokio::test(start_paused = true)]
async fn an_outage_longer_than_the_certificates_life_ends_it_on_time_and_is_recovered_from() {
    let (store, authority, clock) = scene();
    let credential = store.acquire(&id("web")).await.unwrap();
    for mood in BAD {
        authority.is(mood);
        let info = credential.info();
        sleep(info.not_after.duration_since(clock.now()).unwrap()).await;
        assert_eq!(clock.now(), info.not_after);
        assert!(credential.usable().is_ok(), "{mood:?}");
        assert_eq!(presented_serial(&credential).await, *info.serial);
        sleep(Duration::from_millis(1)).await;
        let expired = CredentialError::Expired {
            id: id("web"),
            not_after: info.not_after,
        };
        assert_eq!(credential.usable(), Err(expired), "{mood:?}");
        sleep(5 * HOUR).await;
        let failing = credential.info();
        assert!(failing.attempts > 100, "{mood:?}: {failing:?}");
        assert!(failing.failing_since.unwrap() < info.not_after);
        assert!(failing.renewal_failure.is_some() && failing.left.is_zero());

        // The longest pause between attempts, and what a hanging one takes to end.
        authority.is(Mood::Fine);
        sleep(Duration::from_secs(60 + 30 + 1)).await;
        assert!(credential.usable().is_ok(), "{mood:?}: not back");
        let back = credential.info();
        assert_eq!(back.generation, info.generation + 1);
        assert_eq!((back.attempts, back.failing_since), (0, None));
        assert_eq!(presented_serial(&credential).await, *back.serial);
    }
}
