//! When a certificate is renewed, and the task that does it: at about half of its
//! life, sooner when trust moved away from it, again and again until it succeeds.
//! Spawned by the store, one per credential.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::identity::{Clock, IssueError, Issued, KeyId, SpiffeId};
use crate::tls::random_fraction;

use super::gate::Purpose;
use super::{Credential, Means};

/// How long an authority has to answer.
const ISSUE_DEADLINE: Duration = Duration::from_secs(30);

/// Waits between failed attempts start here and double up to [`MAX_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_secs(1);

/// Longest wait between failed attempts: an authority that is back after an
/// outage is found within a minute.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Least time between a success and the next request, so that an authority which
/// hands out certificates at the end of their life is not asked without pause.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Longest single sleep. Timers do not count the time a machine is suspended
/// and do not see the wall clock being set, so the clock is read this often.
const MAX_NAP: Duration = Duration::from_secs(60);

/// Certificates of an issuer that the authority left are renewed within this time,
/// at random: all of a mesh's are that at once.
const REISSUE_WITHIN: Duration = Duration::from_secs(300);

/// How much a change of trust presses for a new certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// Peers accept the one in use, and the authority signs with the same issuer.
    None,
    /// The authority signs with another issuer now.
    Soon,
    /// The one in use was revoked, or no root vouches for it any more.
    AtOnce,
}

/// What the task waits for.
enum Next {
    /// The certificate's age, by the wall clock. Set back to before the certificate
    /// was valid, the clock was wrong when it was made: another one is wanted.
    At {
        due: SystemTime,
        valid_from: SystemTime,
    },
    /// The end of a pause after a failure, by the machine's own time.
    After(Instant),
}

/// Asks the authority, when it is this request's turn, within the deadline.
pub(super) async fn ask(
    means: &Means,
    id: &SpiffeId,
    purpose: Purpose,
) -> Result<Issued, IssueError> {
    let _pass = means.gate.enter(purpose).await;
    tokio::time::timeout(ISSUE_DEADLINE, means.authority.issue(id))
        .await
        .unwrap_or_else(|_| {
            Err(IssueError::TimedOut {
                id: id.clone(),
                after: ISSUE_DEADLINE,
            })
        })
}

/// Renews a credential for as long as somebody holds it. Until a renewal
/// succeeds the credential keeps the certificate it has. `asked_under` is the issuer
/// that the authority had when the first certificate was asked for.
pub(super) async fn keep_fresh(
    credential: Weak<Credential>,
    means: Arc<Means>,
    mut asked_under: Option<KeyId>,
) {
    let Some((id, wanted, mut next)) = credential
        .upgrade()
        .map(|held| (held.id().clone(), held.wanted(), when_due(&held)))
    else {
        return;
    };
    let mut news = means.trust.subscribe();
    // What changed since the certificate was asked for is news as well.
    news.mark_changed();
    loop {
        tokio::select! {
            biased;
            () = wanted.notified() => {}
            // The trust store outlives its readers' interest: it is in `means`.
            Ok(()) = news.changed() => {
                let Some(held) = credential.upgrade() else {
                    return;
                };
                match held.urgency(&means.trust.current(), asked_under.as_ref()) {
                    Urgency::None => continue,
                    Urgency::Soon => {
                        let soon = means.clock.now() + REISSUE_WITHIN.mul_f64(random_fraction());
                        if let Next::At { due, .. } = &mut next {
                            *due = soon.min(*due);
                            held.next_try_is(*due);
                        }
                        continue;
                    }
                    Urgency::AtOnce => {}
                }
            }
            () = until(&next, &*means.clock) => {}
        }
        let issuer = means.trust.current().issuer().cloned();
        let issued = ask(&means, &id, Purpose::Renewal).await;
        let Some(held) = credential.upgrade() else {
            return;
        };
        next = match issued.and_then(|issued| held.install(issued)) {
            Ok(is_new) => {
                asked_under = issuer;
                let info = held.info();
                if is_new {
                    tracing::info!(
                        identity = %id, serial = %info.serial, generation = info.generation,
                        "certificate renewed"
                    );
                }
                when_due(&held)
            }
            Err(error) => Next::After(Instant::now() + after_failure(&held, error)),
        };
        drop(held);
        tokio::time::sleep(MIN_INTERVAL).await;
    }
}

fn when_due(held: &Credential) -> Next {
    let info = held.info();
    Next::At {
        due: info.next_try,
        valid_from: info.not_before,
    }
}

/// Notes a failed attempt. Returns the pause before the next.
fn after_failure(held: &Credential, error: IssueError) -> Duration {
    let wait = backoff(held.info().attempts, random_fraction());
    tracing::warn!(
        identity = %held.id(), %error, failures = held.info().attempts + 1,
        retry_in_s = wait.as_secs(),
        expires_in_s = held.info().left.as_secs(),
        "certificate not renewed, keeping the one in use"
    );
    held.renewal_failed(error, wait);
    wait
}

/// When to ask for the successor of a certificate that is taken into use `now`:
/// after 40 to 50 % of what is left of it, spread at random so that pods that
/// were enrolled together do not ask together.
pub(super) fn due(now: SystemTime, not_after: SystemTime) -> SystemTime {
    let left = not_after.duration_since(now).unwrap_or_default();
    now + left.mul_f64(0.5 - 0.1 * random_fraction())
}

/// The wait after a failed attempt, by the number of failures before it: an
/// exponential bound, of which at least half is waited.
fn backoff(failures: u32, fraction: f64) -> Duration {
    let bound = FIRST_BACKOFF
        .saturating_mul(2_u32.saturating_pow(failures))
        .min(MAX_BACKOFF);
    bound.mul_f64(0.5 + 0.5 * fraction)
}

async fn until(next: &Next, clock: &dyn Clock) {
    let (due, valid_from) = match next {
        Next::At { due, valid_from } => (due, valid_from),
        Next::After(end) => return tokio::time::sleep_until(*end).await,
    };
    loop {
        let now = clock.now();
        if now < *valid_from {
            return;
        }
        match due.duration_since(now) {
            Ok(left) if !left.is_zero() => tokio::time::sleep(left.min(MAX_NAP)).await,
            _ => return,
        }
    }
}

/// Tells the task that a new certificate is wanted at once.
pub(super) type Wanted = Arc<Notify>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_bound_and_waits_at_least_half() {
        let table = [(0, 1), (1, 2), (5, 32), (6, 60), (31, 60), (u32::MAX, 60)];
        for (failures, bound) in table {
            let bound = Duration::from_secs(bound);
            assert_eq!(backoff(failures, 1.0), bound);
            assert_eq!(backoff(failures, 0.0), bound / 2);
        }
    }

    #[test]
    fn renewal_is_due_between_two_fifths_and_half_of_what_is_left() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let left = Duration::from_secs(86_400);
        for _ in 0..1000 {
            let wait = due(now, now + left).duration_since(now).unwrap();
            assert!(wait >= left.mul_f64(0.4) && wait <= left / 2, "{wait:?}");
        }
    }

    #[test]
    fn what_has_expired_is_due_at_once() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        assert_eq!(due(now, now - Duration::from_secs(1)), now);
    }
}
