//! Tokens that the API server refused a moment ago. Owned by [`super::ClusterAuthorizer`].
//!
//! A token that was refused is not asked about again for a few seconds, so that a caller that
//! repeats a worthless token costs one review in that time. Tokens themselves are not kept.
//! A token that was accepted before is never here: it may be good again at any moment.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Denial;
use super::answers::{Hash, hash};

/// How long a refusal is as good as new: shorter than the longest wait of an agent before it
/// asks again, so that a token that its API server learns of late costs it one attempt.
pub(super) const TTL: Duration = Duration::from_secs(4);

/// Refusals at once; the oldest makes room.
const MAX: usize = 8192;

#[derive(Default)]
pub(super) struct Denials {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    denials: HashMap<Hash, (Denial, Instant)>,
    /// In the order of time, each with the time that it was added.
    order: VecDeque<(Hash, Instant)>,
}

impl Denials {
    /// Why the token was refused a moment ago, if it was.
    pub(super) fn recent(&self, token: &str) -> Option<Denial> {
        let hash = hash(token)?;
        let mut kept = self.lock();
        kept.expire(Instant::now());
        kept.denials.get(&hash).map(|(denial, _)| denial.clone())
    }

    /// Keeps a refusal.
    pub(super) fn keep(&self, token: &str, denial: &Denial) {
        let Some(hash) = hash(token) else { return };
        let now = Instant::now();
        let mut kept = self.lock();
        kept.expire(now);
        if kept.order.len() >= MAX {
            kept.drop_oldest();
        }
        kept.denials.insert(hash, (denial.clone(), now));
        kept.order.push_back((hash, now));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn expire(&mut self, now: Instant) {
        while let Some((_, since)) = self.order.front()
            && now.duration_since(*since) >= TTL
        {
            self.drop_oldest();
        }
    }

    /// An entry that was renewed meanwhile stays: it has a later place in the order.
    fn drop_oldest(&mut self) {
        let Some((hash, added)) = self.order.pop_front() else {
            return;
        };
        if self
            .denials
            .get(&hash)
            .is_some_and(|(_, since)| *since == added)
        {
            self.denials.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn denials_are_kept_for_their_time_and_bounded() {
        let denials = Denials::default();
        denials.keep("first", &Denial::UnknownToken);
        assert!(denials.recent("first").is_some());
        assert!(denials.recent("another").is_none());
        tokio::time::advance(TTL).await;
        assert!(denials.recent("first").is_none());
        for number in 0..2 * MAX {
            denials.keep(&number.to_string(), &Denial::NoNode);
        }
        let kept = denials.lock();
        assert_eq!((kept.denials.len(), kept.order.len()), (MAX, MAX));
        drop(kept);
        assert!(denials.recent("0").is_none());
        assert!(denials.recent(&(2 * MAX - 1).to_string()).is_some());
    }
}
