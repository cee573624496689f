//! How many tokens that were never accepted the API server is asked about for one source.
//! Owned by [`super::ClusterAuthorizer`]. Each review of a worthless token costs the API
//! server a signature, and the authority one of its calls for as long as it takes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::handshakes::source_prefix;

/// Reviews of one source that may be under way or refused in a short time. Agents behind one
/// translated address share it; each gives its review back when it is accepted.
pub(super) const BURST: u32 = 32;

/// A review that was not given back is forgotten after this time.
pub(super) const REFILL: Duration = Duration::from_secs(1);

/// Sources with less than all of their reviews; those above share one budget.
const MAX_SOURCES: usize = 4096;

/// The budget of all sources above [`MAX_SOURCES`].
const OTHERS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

#[derive(Default)]
pub(super) struct Reviews {
    sources: Mutex<HashMap<IpAddr, Spent>>,
}

/// What a source has spent.
struct Spent {
    reviews: u32,
    /// Up to when what refilled was counted.
    counted: Instant,
}

/// A review under way.
pub(super) struct Review<'a> {
    of: &'a Reviews,
    source: IpAddr,
}

impl Reviews {
    /// Takes a review out of the source's budget; `None` when nothing is left.
    pub(super) fn start(&self, from: IpAddr) -> Option<Review<'_>> {
        let now = Instant::now();
        let mut sources = self.lock();
        let mut source = source_prefix(from);
        if !sources.contains_key(&source) && sources.len() >= MAX_SOURCES {
            sources.retain(|_, spent| {
                spent.refill(now);
                spent.reviews > 0
            });
            if sources.len() >= MAX_SOURCES {
                source = OTHERS;
            }
        }
        let spent = sources.entry(source).or_insert(Spent {
            reviews: 0,
            counted: now,
        });
        spent.refill(now);
        if spent.reviews >= BURST {
            return None;
        }
        spent.reviews += 1;
        Some(Review { of: self, source })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Spent>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spent {
    fn refill(&mut self, now: Instant) {
        let elapsed = now.duration_since(self.counted);
        let whole = u32::try_from(elapsed.as_nanos() / REFILL.as_nanos()).unwrap_or(u32::MAX);
        self.reviews = self.reviews.saturating_sub(whole);
        self.counted = if self.reviews == 0 {
            now
        } else {
            self.counted + REFILL * whole
        };
    }
}

impl Review<'_> {
    /// The token was accepted: the review costs its source nothing.
    pub(super) fn accepted(self) {
        let mut sources = self.of.lock();
        if let Some(spent) = sources.get_mut(&self.source) {
            spent.reviews = spent.reviews.saturating_sub(1);
            if spent.reviews == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[tokio::test(start_paused = true)]
    async fn reviews_of_a_source_are_bounded_and_refill() {
        let reviews = Reviews::default();
        for _ in 0..BURST {
            assert!(reviews.start(from(1)).is_some());
        }
        assert!(reviews.start(from(1)).is_none());
        assert!(reviews.start(from(2)).is_some(), "another source paid");
        tokio::time::advance(REFILL * 3).await;
        let again = (0..10).filter(|_| reviews.start(from(1)).is_some());
        assert_eq!(again.count(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn accepted_reviews_cost_nothing_and_leave_no_entry() {
        let reviews = Reviews::default();
        for _ in 0..10 * BURST {
            reviews.start(from(1)).unwrap().accepted();
        }
        assert!(reviews.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn sources_above_the_limit_share_one_budget() {
        let reviews = Reviews::default();
        let source = |number: usize| IpAddr::from([10, 1, (number >> 8) as u8, number as u8]);
        let started = (0..2 * MAX_SOURCES).filter(|n| reviews.start(source(*n)).is_some());
        assert_eq!(started.count(), MAX_SOURCES + BURST as usize);
        assert_eq!(reviews.lock().len(), MAX_SOURCES + 1);
        // Those that have refilled make room.
        tokio::time::advance(REFILL).await;
        assert!(reviews.start(source(5 * MAX_SOURCES)).is_some());
        assert!(reviews.lock().len() < 10);
    }
}
