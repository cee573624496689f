//! Which connection keeps its slot: pure bookkeeping, with time as an input. Owned by
//! [`super::Handshakes`].
//!
//! A source is an IPv4 address or an IPv6 /64, within which the addresses are compared in
//! turn. When the slots are full, the victim is, in this order:
//!
//! 1. of the source with the most slots, if these are more than an eighth of all: its oldest
//!    silent connection, or else its oldest one;
//! 2. the oldest silent connection, if it had time for a first byte;
//! 3. of the source with the most slots: as above.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::time::Instant;

/// A source may have this part of all slots before it is the first to lose some.
const SHARES: usize = 8;

/// Time in which a connection is not counted as silent: a round trip across continents, so
/// that its first byte may still be on its way.
pub(super) const GRACE: Duration = Duration::from_millis(250);

/// The connections that hold a slot, each with its `T`.
pub(super) struct Slots<T> {
    capacity: usize,
    /// Ids grow, so that the smallest is the oldest.
    next: u64,
    connections: HashMap<u64, Connection<T>>,
    silent: BTreeSet<u64>,
    sources: HashMap<IpAddr, Source>,
    by_weight: BTreeSet<Weight>,
}

struct Connection<T> {
    from: IpAddr,
    since: Instant,
    holder: T,
}

/// The connections of one prefix, at least one.
#[derive(Default)]
struct Source {
    all: BTreeSet<u64>,
    addresses: HashMap<IpAddr, Held>,
}

#[derive(Default)]
struct Held {
    silent: BTreeSet<u64>,
    speaking: BTreeSet<u64>,
}

/// Orders sources: the most connections last, among equals that with the oldest.
type Weight = (usize, Reverse<u64>, IpAddr);

/// The source that an address belongs to: itself, or its /64.
pub(crate) fn source_prefix(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => v4.into(),
            None => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        },
    }
}

impl<T> Slots<T> {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            next: 0,
            connections: HashMap::new(),
            silent: BTreeSet::new(),
            sources: HashMap::new(),
            by_weight: BTreeSet::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Admits a connection, which is silent so far. Gives its id, and what belongs to the
    /// connection that lost its slot for it.
    pub(super) fn admit(&mut self, from: IpAddr, now: Instant, holder: T) -> (u64, Option<T>) {
        let victim = if self.len() < self.capacity {
            None
        } else {
            self.victim(now).and_then(|victim| self.leave(victim))
        };
        let id = self.next;
        self.next += 1;
        let connection = Connection {
            from,
            since: now,
            holder,
        };
        self.connections.insert(id, connection);
        self.silent.insert(id);
        self.change(from, |source| {
            source.all.insert(id);
            source.addresses.entry(from).or_default().silent.insert(id);
        });
        (id, victim)
    }

    /// The first byte came.
    pub(super) fn spoke(&mut self, id: u64) {
        if !self.silent.remove(&id) {
            return;
        }
        let from = self.connections[&id].from;
        self.change(from, |source| {
            let held = source.addresses.entry(from).or_default();
            held.silent.remove(&id);
            held.speaking.insert(id);
        });
    }

    /// Frees a slot; `None` where the connection has lost it already.
    pub(super) fn leave(&mut self, id: u64) -> Option<T> {
        let Connection { from, holder, .. } = self.connections.remove(&id)?;
        self.silent.remove(&id);
        self.change(from, |source| {
            source.all.remove(&id);
            if let Some(held) = source.addresses.get_mut(&from) {
                held.silent.remove(&id);
                held.speaking.remove(&id);
                if held.len() == 0 {
                    source.addresses.remove(&from);
                }
            }
        });
        Some(holder)
    }

    fn victim(&self, now: Instant) -> Option<u64> {
        let (most, _, heaviest) = *self.by_weight.last()?;
        let heaviest = self.sources.get(&heaviest)?;
        let share = (self.capacity / SHARES).max(1);
        if most > share {
            return heaviest.victim();
        }
        let silent = self.silent.first().copied();
        silent
            .filter(|id| now.duration_since(self.connections[id].since) >= GRACE)
            .or_else(|| heaviest.victim())
    }

    /// Changes a source and its place in the order of weights.
    fn change(&mut self, address: IpAddr, change: impl FnOnce(&mut Source)) {
        let prefix = source_prefix(address);
        let source = self.sources.entry(prefix).or_default();
        if let Some(weight) = source.weight(prefix) {
            self.by_weight.remove(&weight);
        }
        change(source);
        match source.weight(prefix) {
            Some(weight) => drop(self.by_weight.insert(weight)),
            None => drop(self.sources.remove(&prefix)),
        }
    }
}

impl Source {
    fn weight(&self, prefix: IpAddr) -> Option<Weight> {
        Some((self.all.len(), Reverse(*self.all.first()?), prefix))
    }

    fn victim(&self) -> Option<u64> {
        let held = self.addresses.values();
        held.max_by_key(|held| (held.len(), Reverse(held.oldest())))?
            .oldest()
    }
}

impl Held {
    fn len(&self) -> usize {
        self.silent.len() + self.speaking.len()
    }

    /// The oldest silent one, or else the oldest.
    fn oldest(&self) -> Option<u64> {
        self.silent.first().or(self.speaking.first()).copied()
    }
}

#[cfg(test)]
mod tests;
