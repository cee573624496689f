//! Who lately talked to whom, by identity: what `mesh-agent policy simulate` replays. One
//! update a finished connection that policy was asked about, into a shard of its own lock.

mod key;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::live::{Details, LiveConnection};
use super::reason::Outcome;
use key::Key;

/// Flows kept over all shards.
const KEPT: usize = 10_000;
const SHARDS: usize = 16;

/// Connections alike in everything that policy looks at but the addresses of those that
/// have an identity. The form in which `mesh-agent flows -o json` saves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Whose agent recorded it.
    pub reporter: Reporter,
    /// SPIFFE URI of who connects; `None` for plaintext, which proves none.
    pub source_identity: Option<String>,
    /// Address of who connects, only where there is no identity.
    pub source_ip: Option<std::net::IpAddr>,
    /// Workload that was to be reached, `namespace/name`.
    pub destination: String,
    /// TCP port of the workload.
    pub port: u16,
    /// Whether policy let it in.
    pub allowed: bool,
    /// The stable reason code of the refusal.
    pub reason: Option<String>,
    /// Connections.
    pub count: u64,
    /// When the last of them ended, in seconds since 1970 (UTC).
    pub last_seen_s: u64,
}

/// Whose agent recorded a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reporter {
    /// That of who connects.
    Source,
    /// That of the workload that is reached.
    Destination,
}

/// All flows kept.
#[derive(Debug)]
pub(super) struct Flows {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    /// Orders uses, so that a clock that jumps has the wrong flow evicted nowhere.
    used: AtomicU64,
}

#[derive(Debug)]
struct Shard {
    entries: HashMap<Key, Entry>,
    /// How many have no identity.
    anonymous: usize,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Entry {
    count: u64,
    last_seen_s: u64,
    used: u64,
}

impl Flows {
    pub(super) fn new() -> Self {
        Self::with_capacity(KEPT)
    }

    pub(super) fn with_capacity(kept: usize) -> Self {
        let shard = || Shard {
            entries: HashMap::new(),
            anonymous: 0,
            capacity: (kept / SHARDS).max(1),
        };
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            hasher: RandomState::new(),
            used: AtomicU64::new(0),
        }
    }

    /// Records a connection that ended, if policy was asked about it.
    pub(super) fn record(&self, connection: &LiveConnection, details: &Details, outcome: Outcome) {
        if let Some(key) = Key::of(connection, details, outcome) {
            self.count(key);
        }
    }

    fn count(&self, key: Key) {
        let used = self.used.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let place = self.hasher.hash_one(&key) as usize % SHARDS;
        let mut shard = self.shards[place]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let entry = shard.entry(key);
        entry.count += 1;
        entry.used = used;
        entry.last_seen_s = now.map_or(0, |now| now.as_secs());
    }

    /// The flows, in the order of their destinations.
    pub(super) fn list(&self) -> Vec<Flow> {
        let mut flows = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let of = |(key, entry): (&Key, &Entry)| key.flow(entry.count, entry.last_seen_s);
            flows.extend(shard.entries.iter().map(of));
        }
        flows.sort_by(|a: &Flow, b| sort_key(a).cmp(&sort_key(b)));
        flows
    }
}

type SortKey<'a> = (
    &'a str,
    u16,
    Option<&'a str>,
    Option<std::net::IpAddr>,
    bool,
    Reporter,
);

fn sort_key(flow: &Flow) -> SortKey<'_> {
    let identity = flow.source_identity.as_deref();
    let (ip, allowed) = (flow.source_ip, flow.allowed);
    (
        &flow.destination,
        flow.port,
        identity,
        ip,
        allowed,
        flow.reporter,
    )
}

impl Shard {
    fn entry(&mut self, key: Key) -> &mut Entry {
        if !self.entries.contains_key(&key) {
            self.make_room(key.is_anonymous());
            self.anonymous += usize::from(key.is_anonymous());
        }
        self.entries.entry(key).or_default()
    }

    /// Takes the flow out that was not used for the longest. Those without identity have
    /// half of the room: whoever connects from many addresses drives out only their like.
    fn make_room(&mut self, anonymous: bool) {
        let among_anonymous = anonymous && self.anonymous >= self.capacity.div_ceil(2);
        if self.entries.len() < self.capacity && !among_anonymous {
            return;
        }
        let entries = self.entries.iter();
        let candidates = entries.filter(|(key, _)| !among_anonymous || key.is_anonymous());
        let oldest = candidates.min_by_key(|(_, entry)| entry.used);
        if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
            self.anonymous -= usize::from(oldest.is_anonymous());
            self.entries.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests;
