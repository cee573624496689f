//! Limits the log lines of refusals: a peer that is refused again and again must crowd out
//! neither other pods' lines nor other peers'. Used by the access log and for kernel events.
//!
//! In each window of time the first lines of a pod, source address and reason are written in
//! full; the rest is counted, and one line at the end of the window has the count. A pod has a
//! number of full lines in all, and of sources that are counted apart; further sources are
//! counted together. Metrics count every refusal by itself.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Length of a window.
pub const WINDOW: Duration = Duration::from_secs(10);
/// Lines of one pod, source and reason that are written in full in a window.
pub const LINES_PER_KEY: u64 = 20;
/// Lines of one pod that are written in full in a window.
pub const LINES_PER_POD: u64 = 200;
/// Pairs of source and reason of one pod that are counted apart.
pub const KEYS_PER_POD: usize = 64;

/// Shards of the table, so that workers seldom meet.
const SHARDS: usize = 16;

/// A kind of refusal of one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RefusalKey {
    /// The other end; `None` for sources that are counted together.
    pub source: Option<IpAddr>,
    /// The reason's code.
    pub reason: &'static str,
}

/// Refusals that were counted instead of written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suppressed<P> {
    /// The pod.
    pub pod: P,
    /// Of which kind.
    pub key: RefusalKey,
    /// How many.
    pub count: u64,
    /// When the first of them was.
    pub first: SystemTime,
    /// When the last of them was.
    pub last: SystemTime,
}

/// The lines of every pod in its present window.
#[derive(Debug)]
pub struct LineLimiter<P> {
    shards: [Mutex<HashMap<P, PodLines>>; SHARDS],
    hasher: RandomState,
    /// Pods that have a window.
    active: AtomicUsize,
}

#[derive(Debug)]
struct PodLines {
    began: Instant,
    /// Lines written in full.
    full: u64,
    keys: HashMap<RefusalKey, Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    full: u64,
    suppressed: u64,
    times: Option<(SystemTime, SystemTime)>,
}

impl<P: Clone + Eq + Hash> Default for LineLimiter<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Clone + Eq + Hash> LineLimiter<P> {
    /// A limiter that has seen nothing.
    pub fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            active: AtomicUsize::new(0),
        }
    }

    /// Whether this refusal gets a line of its own; else it is counted.
    pub fn admit(&self, pod: &P, source: IpAddr, reason: &'static str, now: Instant) -> bool {
        let shard = self.hasher.hash_one(pod) as usize % SHARDS;
        let mut pods = lock(&self.shards[shard]);
        if !pods.contains_key(pod) {
            self.active.fetch_add(1, Ordering::Relaxed);
        }
        let lines = pods.entry(pod.clone()).or_insert_with(|| PodLines {
            began: now,
            full: 0,
            keys: HashMap::new(),
        });
        lines.admit(source, reason, SystemTime::now())
    }

    /// Whether any pod has a window, whose end [`LineLimiter::ended`] is to find.
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed) > 0
    }

    /// What was suppressed in the windows that have ended by `now`. Those pods begin anew.
    pub fn ended(&self, now: Instant) -> Vec<Suppressed<P>> {
        self.take(|lines| now.saturating_duration_since(lines.began) >= WINDOW)
    }

    /// What was suppressed in all windows, which end now.
    pub fn end_all(&self) -> Vec<Suppressed<P>> {
        self.take(|_| true)
    }

    fn take(&self, has_ended: impl Fn(&PodLines) -> bool) -> Vec<Suppressed<P>> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let ended = lock(shard)
                .extract_if(|_, lines| has_ended(lines))
                .collect::<Vec<_>>();
            self.active.fetch_sub(ended.len(), Ordering::Relaxed);
            for (pod, lines) in ended {
                all.extend(lines.suppressed(&pod));
            }
        }
        all
    }
}

impl PodLines {
    fn admit(&mut self, source: IpAddr, reason: &'static str, at: SystemTime) -> bool {
        let mut key = RefusalKey {
            source: Some(source),
            reason,
        };
        if self.keys.len() >= KEYS_PER_POD && !self.keys.contains_key(&key) {
            // There are few reasons, so that these are few.
            key.source = None;
        }
        let lines = self.keys.entry(key).or_default();
        if lines.full < LINES_PER_KEY && self.full < LINES_PER_POD {
            lines.full += 1;
            self.full += 1;
            return true;
        }
        lines.suppressed += 1;
        let first = lines.times.map_or(at, |(first, _)| first);
        lines.times = Some((first, at));
        false
    }

    fn suppressed<P: Clone>(self, pod: &P) -> Vec<Suppressed<P>> {
        let counted = self.keys.into_iter().filter_map(|(key, lines)| {
            let (first, last) = lines.times?;
            Some(Suppressed {
                pod: pod.clone(),
                key,
                count: lines.suppressed,
                first,
                last,
            })
        });
        counted.collect()
    }
}

/// A time as the log writes it.
pub fn rfc3339(time: SystemTime) -> String {
    let format = &time::format_description::well_known::Rfc3339;
    time::OffsetDateTime::from(time)
        .format(format)
        .unwrap_or_default()
}

fn lock<P>(shard: &Mutex<HashMap<P, PodLines>>) -> MutexGuard<'_, HashMap<P, PodLines>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
