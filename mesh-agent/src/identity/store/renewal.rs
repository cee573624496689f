//! When a certificate is renewed, and the task that does it: at about half of
//! its life, again and again until it succeeds. Spawned by the store, one per
//! credential.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use crate::identity::{CertificateAuthority, Clock, IssueError, Issued, SpiffeId};
use crate::tls::random_fraction;

use super::Credential;

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

/// Asks the authority, within the deadline.
pub(super) async fn ask(
    authority: &dyn CertificateAuthority,
    id: &SpiffeId,
) -> Result<Issued, IssueError> {
    tokio::time::timeout(ISSUE_DEADLINE, authority.issue(id))
        .await
        .unwrap_or_else(|_| {
            Err(IssueError::TimedOut {
                id: id.clone(),
                after: ISSUE_DEADLINE,
            })
        })
}

/// Renews a credential for as long as somebody holds it. Until a renewal
/// succeeds the credential keeps the certificate it has.
pub(super) async fn keep_fresh(
    credential: Weak<Credential>,
    authority: Arc<dyn CertificateAuthority>,
    clock: Arc<dyn Clock>,
) {
    let Some(id) = credential.upgrade().map(|held| held.id().clone()) else {
        return;
    };
    let mut failures = 0;
    loop {
        let Some(due) = credential.upgrade().map(|held| held.renew_at()) else {
            return;
        };
        sleep_until(&*clock, due).await;
        let issued = ask(&*authority, &id).await;
        let Some(held) = credential.upgrade() else {
            return;
        };
        let wait = match issued.and_then(|issued| held.install(issued)) {
            Ok(()) => {
                failures = 0;
                let info = held.info();
                tracing::info!(
                    identity = %id, serial = %info.serial, generation = info.generation,
                    "certificate renewed"
                );
                MIN_INTERVAL
            }
            Err(error) => {
                let wait = backoff(failures, random_fraction());
                failures = failures.saturating_add(1);
                tracing::warn!(
                    identity = %id, %error, failures, retry_in_s = wait.as_secs(),
                    expires_in_s = held.remaining().map_or(0, |left| left.as_secs()),
                    "certificate not renewed, keeping the one in use"
                );
                held.renewal_failed(error);
                wait
            }
        };
        drop(held);
        tokio::time::sleep(wait).await;
    }
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

async fn sleep_until(clock: &dyn Clock, due: SystemTime) {
    while let Ok(left) = due.duration_since(clock.now()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(MAX_NAP)).await;
    }
}

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
