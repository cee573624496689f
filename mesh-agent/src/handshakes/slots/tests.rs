use std::collections::HashSet;

use super::*;

const CAPACITY: usize = 64;

fn v4(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

/// Slots on a clock that the test sets, and who still has one.
struct Fixture {
    slots: Slots<u64>,
    now: Instant,
    inside: HashSet<u64>,
}

impl Fixture {
    fn new() -> Self {
        Self {
            slots: Slots::new(CAPACITY),
            now: Instant::now(),
            inside: HashSet::new(),
        }
    }

    fn admit(&mut self, from: IpAddr) -> u64 {
        let expected = self.slots.next;
        let (id, victim) = self.slots.admit(from, self.now, expected);
        assert_eq!(id, expected);
        if let Some(victim) = victim {
            assert!(self.inside.remove(&victim), "{victim} was not inside");
        }
        self.inside.insert(id);
        assert!(self.slots.len() <= CAPACITY);
        assert_eq!(self.slots.len(), self.inside.len());
        id
    }

    fn spoken(&mut self, from: IpAddr) -> u64 {
        let id = self.admit(from);
        self.slots.spoke(id);
        id
    }

    fn leave(&mut self, id: u64) {
        assert_eq!(self.slots.leave(id), Some(id));
        self.inside.remove(&id);
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }
}

#[test]
fn admit_drops_nobody_while_there_is_room() {
    let mut all = Fixture::new();
    for _ in 0..CAPACITY {
        all.admit(v4(1));
    }
    assert_eq!(all.inside.len(), CAPACITY);
}

#[test]
fn admit_drops_connections_of_the_flooding_source_alone() {
    // Silent, or with a first byte of something: it makes no difference.
    for speaks in [false, true] {
        let mut all = Fixture::new();
        let others: Vec<u64> = (2..8).map(|last| all.admit(v4(last))).collect();
        for _ in 0..10 * CAPACITY {
            let id = all.admit(v4(1));
            if speaks {
                all.slots.spoke(id);
            }
            all.wait(Duration::from_millis(100));
        }
        assert!(others.iter().all(|id| all.inside.contains(id)));
        // Neither does a newcomer lose its slot before it could speak.
        let new = all.admit(v4(9));
        for _ in 0..CAPACITY {
            all.admit(v4(1));
        }
        assert!(all.inside.contains(&new));
    }
}

#[test]
fn admit_drops_the_oldest_silent_connection_of_a_distributed_flood() {
    let mut all = Fixture::new();
    let speaking: Vec<u64> = (0..4).map(|_| all.spoken(v4(200))).collect();
    for flood in 0..10 * CAPACITY {
        all.admit(v4((flood % 100) as u8));
        all.wait(Duration::from_millis(10));
    }
    assert!(speaking.iter().all(|id| all.inside.contains(id)));
    let oldest = *all.slots.silent.first().unwrap();
    all.wait(GRACE);
    all.admit(v4(201));
    assert!(!all.inside.contains(&oldest));
}

#[test]
fn admit_spares_the_newly_silent_where_all_others_sent_a_byte() {
    let mut all = Fixture::new();
    // Eight sources with an eighth each, who sent one byte to look alive.
    for connection in 0..CAPACITY {
        all.spoken(v4((connection % 8) as u8));
    }
    let new = all.admit(v4(100));
    for _ in 0..20 {
        all.spoken(v4(101));
        all.spoken(v4(102));
    }
    assert!(all.inside.contains(&new), "it had no time to speak");
}

#[test]
fn admit_compares_v6_sources_by_prefix_and_their_addresses_within() {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let mut all = Fixture::new();
    let other_prefix = all.admit(address("fd00:0:0:2::1"));
    let neighbour = all.admit(address("fd00:0:0:1::1"));
    // One address of the neighbour's own prefix.
    for _ in 0..4 * CAPACITY {
        all.admit(address("fd00:0:0:1::bad"));
        all.wait(Duration::from_millis(100));
    }
    assert!(all.inside.contains(&other_prefix) && all.inside.contains(&neighbour));
    // All addresses of a prefix.
    for host in 0..4 * CAPACITY {
        all.admit(address(&format!("fd00:0:0:3::{host:x}")));
        all.wait(Duration::from_millis(100));
    }
    assert!(all.inside.contains(&other_prefix) && all.inside.contains(&neighbour));
}

#[test]
fn leave_frees_the_slot_once_and_forgets_the_source() {
    let mut all = Fixture::new();
    let ids: Vec<u64> = (0..3).map(|last| all.spoken(v4(last))).collect();
    for id in ids {
        all.leave(id);
        assert_eq!(all.slots.leave(id), None);
    }
    assert!(all.slots.sources.is_empty() && all.slots.by_weight.is_empty());
    assert!(all.slots.silent.is_empty() && all.slots.connections.is_empty());
    // A byte of a connection that lost its slot changes nothing.
    all.slots.spoke(0);
    assert!(all.slots.sources.is_empty());
}

#[test]
fn source_prefix_is_the_address_or_its_64_bits() {
    for (address, prefix) in [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("fd07::1", "fd07::"),
        ("fd07:1:2:3:4:5:6:7", "fd07:1:2:3::"),
    ] {
        let found = source_prefix(address.parse().unwrap());
        assert_eq!(found, prefix.parse::<IpAddr>().unwrap(), "{address}");
    }
}
