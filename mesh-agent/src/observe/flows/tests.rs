//! What is kept of many flows, and what goes.

use std::net::Ipv4Addr;

use super::key::Source;
use super::*;

fn key(source: Source, port: u16) -> Key {
    Key {
        reporter: Reporter::Destination,
        source,
        namespace: "shop".into(),
        name: "db".into(),
        port,
        refused: None,
    }
}

fn of_identity(number: u32) -> Key {
    let uri = format!("spiffe://cluster.local/ns/shop/sa/s{number}");
    key(Source::Identity(uri.as_str().into()), 80)
}

fn of_address(number: u32) -> Key {
    key(Source::Address(Ipv4Addr::from(number).into()), 80)
}

#[test]
fn the_same_flow_is_counted_and_others_stand_beside_it() {
    let flows = Flows::new();
    flows.count(of_identity(1));
    flows.count(of_identity(1));
    flows.count(key(of_identity(1).source, 81));
    flows.count(Key {
        refused: Some(crate::observe::Reason::PolicyDenied),
        ..of_identity(1)
    });
    let seen = flows.list();
    let seen: Vec<_> = seen
        .iter()
        .map(|it| (it.port, it.allowed, it.count))
        .collect();
    assert_eq!(seen, [(80, false, 1), (80, true, 2), (81, true, 1)]);
}

#[test]
fn who_comes_from_many_addresses_does_not_drive_identities_out() {
    let flows = Flows::with_capacity(160);
    let known = 0..16;
    known
        .clone()
        .for_each(|number| flows.count(of_identity(number)));
    (0..10_000).for_each(|number| flows.count(of_address(number)));
    let seen = flows.list();
    let identities = seen.iter().filter(|it| it.source_identity.is_some());
    assert_eq!(identities.count(), known.len());
    assert!(seen.len() <= 160, "{}", seen.len());
    assert!(seen.len() > 16);
}

#[test]
fn what_was_not_seen_for_the_longest_goes_first() {
    let mut shard = Shard {
        entries: HashMap::new(),
        anonymous: 0,
        capacity: 2,
    };
    for (used, number) in [1, 2, 1, 3].into_iter().enumerate() {
        shard.entry(of_identity(number)).used = used as u64;
    }
    let has = |number| shard.entries.contains_key(&of_identity(number));
    assert!(has(1) && has(3) && !has(2));
}
