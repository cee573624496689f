//! Each difference is named, and nothing else is.

use mesh_common::ip::Ip;
use mesh_common::maps::{POD_HAS_V4, POD_HAS_V6};

use super::*;

fn ip(last: u8) -> Ip {
    Ip { bytes: [last; 16] }
}

fn addresses() -> [IpAddr; 2] {
    ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()]
}

fn expected() -> Expected {
    Expected {
        netns: NetnsCookie(7),
        netns_ino: 4_026_532_000,
        entry: Pod {
            cgroup_id: 77,
            depth: 1,
            flags: POD_HAS_V4 | POD_HAS_V6,
            ipv4: ip(1),
            ipv6: ip(2),
            port: 40_000,
            reserved: [0; 6],
        },
        strict: true,
        listener: Listener {
            cookie: 99,
            accepts: true,
            netns_cookie: 7,
        },
    }
}

fn healthy() -> Seen {
    Seen {
        entry: Some(expected().entry),
        guard: Some(Cgroup {
            netns_cookie: 7,
            flags: CGROUP_STRICT,
            reserved: 0,
        }),
        slots: addresses().map(|address| (address, Some(99))).to_vec(),
        lookup: Lookup {
            netns_ino: 4_026_532_000,
            other_tag: None,
            pinned: true,
        },
    }
}

#[test]
fn what_is_as_it_was_made_has_no_fault() {
    assert_eq!(pod(&expected(), &healthy()), []);
}

#[test]
fn each_difference_is_named_alone() {
    type Change = fn(&mut Seen);
    let [v4, v6] = addresses();
    let cases: [(Change, Fault); 13] = [
        (|seen| seen.entry = None, Fault::NotRedirected),
        (
            |seen| seen.entry.as_mut().unwrap().port = 1,
            Fault::RedirectedOtherwise("port"),
        ),
        (
            |seen| seen.entry.as_mut().unwrap().cgroup_id = 1,
            Fault::RedirectedOtherwise("cgroup"),
        ),
        (
            |seen| seen.entry.as_mut().unwrap().flags = POD_HAS_V4,
            Fault::RedirectedOtherwise("address"),
        ),
        (|seen| seen.guard = None, Fault::NotGuarded),
        (
            |seen| seen.guard.as_mut().unwrap().netns_cookie = 8,
            Fault::GuardedOtherwise,
        ),
        (
            |seen| seen.guard.as_mut().unwrap().flags = 0,
            Fault::Mode { strict: true },
        ),
        (|seen| seen.slots[0].1 = None, Fault::SlotEmpty(v4)),
        (|seen| seen.slots[1].1 = Some(98), Fault::SlotTaken(v6)),
        (|seen| seen.lookup = Lookup::default(), Fault::NotLookedUp),
        (|seen| seen.lookup.netns_ino = 5, Fault::NotLookedUp),
        (
            |seen| seen.lookup.other_tag = Some("f00d".into()),
            Fault::LookupReplaced("f00d".into()),
        ),
        (
            |seen| seen.lookup.pinned = false,
            Fault::Unpinned("its sk_lookup link".into()),
        ),
    ];
    for (change, fault) in cases {
        let mut seen = healthy();
        change(&mut seen);
        assert_eq!(pod(&expected(), &seen), [fault]);
    }
}

#[test]
fn a_listener_that_is_closed_or_elsewhere_does_not_accept() {
    for (accepts, netns_cookie) in [(false, 7), (true, 8)] {
        let mut wanted = expected();
        wanted.listener = Listener {
            cookie: 99,
            accepts,
            netns_cookie,
        };
        assert_eq!(pod(&wanted, &healthy()), [Fault::NotAccepting]);
    }
}

#[test]
fn a_guard_that_is_stricter_than_the_configuration_is_a_fault_too() {
    let mut wanted = expected();
    wanted.strict = false;
    let faults = pod(&wanted, &healthy());
    assert_eq!(faults, [Fault::Mode { strict: false }]);
    assert_eq!(
        faults[0].to_string(),
        "the guard has it STRICT, and the configuration PERMISSIVE"
    );
}

#[test]
fn the_programs_settings_may_hold_more_depths_and_no_level_yet() {
    let wanted = Meta {
        pods_cgroup_id: 5,
        abi_version: 2,
        pods_level: 3,
        depths: 0b10,
        reserved: 0,
    };
    for fine in [
        wanted,
        Meta {
            depths: 0b110,
            ..wanted
        },
        Meta {
            pods_level: 0,
            ..wanted
        },
    ] {
        assert_eq!(settings(&fine, &wanted), None);
    }
    for bad in [
        Meta {
            pods_cgroup_id: 6,
            ..wanted
        },
        Meta {
            abi_version: 1,
            ..wanted
        },
        Meta {
            pods_level: 4,
            ..wanted
        },
        Meta {
            depths: 0b100,
            ..wanted
        },
    ] {
        assert!(settings(&bad, &wanted).is_some(), "{bad:?}");
    }
}
