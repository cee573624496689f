//! `sessionAffinity: ClientIP`: which endpoint a client was last led to, for every
//! service that asks for it. One for the whole agent, since the connections of a pod are
//! dealt to all workers, and outside the configuration, since it outlives its generations.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::model::Service;

/// Parts that are locked apart, each for a few lookups at a time and never over I/O.
const SHARDS: usize = 16;

/// Clients of services that a part remembers; with more, the quarter unused the longest
/// is forgotten.
const PER_SHARD: usize = 4096;

/// What is remembered of clients.
#[derive(Debug)]
pub(super) struct Affinity {
    shards: [Mutex<HashMap<Key, Led>>; SHARDS],
    hasher: RandomState,
}

/// A client of one port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    namespace: Arc<str>,
    service: Arc<str>,
    port: u16,
    client: IpAddr,
}

#[derive(Clone, Copy, Debug)]
struct Led {
    to: SocketAddr,
    used: Instant,
}

impl Key {
    /// For the pod at `client` that asks for `port` of `service`.
    pub(super) fn new(service: &Service, port: u16, client: IpAddr) -> Self {
        Self {
            namespace: Arc::clone(&service.namespace),
            service: Arc::clone(&service.name),
            port,
            client,
        }
    }
}

impl Affinity {
    pub(super) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
        }
    }

    /// Where the client goes: where it went within the last `timeout`, if that
    /// `takes` connections still, or else to `other`, from now on.
    pub(super) fn lead(
        &self,
        key: Key,
        timeout: Duration,
        now: Instant,
        takes: impl FnOnce(SocketAddr) -> bool,
        other: SocketAddr,
    ) -> SocketAddr {
        let mut shard = self.shard(&key);
        if let Some(led) = shard.get_mut(&key) {
            let fresh = now.saturating_duration_since(led.used) < timeout;
            if !(fresh && takes(led.to)) {
                led.to = other;
            }
            led.used = now;
            return led.to;
        }
        if shard.len() >= PER_SHARD {
            forget_quarter(&mut shard);
        }
        let led = Led {
            to: other,
            used: now,
        };
        shard.insert(key, led);
        other
    }

    /// The connection came about at another endpoint than the one led to.
    pub(super) fn moved(&self, key: &Key, to: SocketAddr) {
        if let Some(led) = self.shard(key).get_mut(key) {
            led.to = to;
        }
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, HashMap<Key, Led>> {
        let shard = &self.shards[self.hasher.hash_one(key) as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn forget_quarter(shard: &mut HashMap<Key, Led>) {
    let mut used: Vec<Instant> = shard.values().map(|led| led.used).collect();
    let (_, &mut oldest, _) = used.select_nth_unstable(PER_SHARD / 4);
    shard.retain(|_, led| led.used > oldest);
}

#[cfg(test)]
mod tests;
