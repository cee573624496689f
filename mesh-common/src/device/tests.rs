extern crate std;

use std::net::IpAddr;

use super::*;

const STRICT: u32 = CGROUP_STRICT;
const PERMISSIVE: u32 = 0;

fn ip(text: &str) -> Ip {
    let bytes = match text.parse().unwrap() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    Ip { bytes }
}

fn segment(flags: u8, payload: bool) -> Option<Segment> {
    Some(Segment { flags, payload })
}

fn device(flags: u32) -> Device {
    Device {
        netns_cookie: 5,
        cgroup_id: 6,
        ipv4: ip("10.0.0.1"),
        ipv6: ip("fd00::1"),
        flags,
        reserved: 0,
    }
}

#[test]
fn egress_drops_a_new_connection_in_every_mode() {
    for flags in [STRICT, PERMISSIVE] {
        for payload in [false, true] {
            let verdict = egress(flags, Origin::Local, segment(tcp::SYN, payload));
            assert_eq!(verdict, Verdict::DropNewConnection);
        }
    }
}

#[test]
fn egress_passes_what_the_kernel_sends_without_a_socket() {
    let fin = 0x01;
    for flags in [
        tcp::RST,
        tcp::RST | tcp::ACK,
        tcp::ACK,
        tcp::ACK | fin,
        tcp::SYN | tcp::ACK,
    ] {
        let verdict = egress(STRICT, Origin::Local, segment(flags, false));
        assert_eq!(verdict, Verdict::Pass, "{flags:#x}");
    }
}

#[test]
fn egress_passes_data_of_older_connections_only() {
    let data = segment(tcp::ACK, true);
    assert_eq!(egress(PERMISSIVE, Origin::Local, data), Verdict::Pass);
    assert_eq!(egress(STRICT, Origin::Local, data), Verdict::DropStrict);
}

#[test]
fn egress_drops_forwarded_tcp_under_strict_and_counts_it_otherwise() {
    for segment in [segment(tcp::SYN, false), segment(tcp::RST, false), None] {
        let strict = egress(STRICT, Origin::Forwarded, segment);
        assert_eq!(strict, Verdict::DropForwarded);
        let permissive = egress(PERMISSIVE, Origin::Forwarded, segment);
        assert_eq!(permissive, Verdict::PassForwarded);
    }
}

#[test]
fn egress_opens_nothing_by_way_of_loopback() {
    let syn = segment(tcp::SYN, false);
    assert_eq!(
        egress(PERMISSIVE, Origin::Loopback, syn),
        Verdict::DropNewConnection
    );
    assert_eq!(
        egress(STRICT, Origin::Loopback, syn),
        Verdict::DropForwarded
    );
}

#[test]
fn egress_drops_what_cannot_be_read() {
    for flags in [STRICT, PERMISSIVE] {
        let verdict = egress(flags, Origin::Local, None);
        assert_eq!(verdict, Verdict::DropUnreadable);
    }
}

#[test]
fn origin_is_known_by_the_interface_of_arrival() {
    assert_eq!(Origin::of(0), Origin::Local);
    assert_eq!(Origin::of(1), Origin::Loopback);
    assert_eq!(Origin::of(2), Origin::Forwarded);
}

#[test]
fn ingress_passes_what_is_for_the_pod_without_asking_the_routes() {
    for destination in ["10.0.0.1", "fd00::1", "fe80::1", "ff02::1", "224.0.0.1"] {
        let forwards = || panic!("asked for {destination}");
        let verdict = ingress(&device(STRICT), &ip("10.0.0.9"), &ip(destination), forwards);
        assert_eq!(verdict, Verdict::Pass);
    }
}

#[test]
fn ingress_decides_on_other_addresses_by_the_routes() {
    let (from, to) = (ip("10.0.0.9"), ip("192.168.1.2"));
    for (flags, forwards, expected) in [
        (STRICT, true, Verdict::DropForwarded),
        (PERMISSIVE, true, Verdict::PassForwarded),
        (STRICT, false, Verdict::Pass),
        (PERMISSIVE, false, Verdict::Pass),
    ] {
        assert_eq!(ingress(&device(flags), &from, &to, || forwards), expected);
    }
}

#[test]
fn ingress_drops_addresses_that_are_used_within_a_host_only() {
    for (from, to) in [
        ("10.0.0.9", "127.0.0.1"),
        ("127.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.1"),
        ("fd00::9", "::1"),
    ] {
        let verdict = ingress(&device(PERMISSIVE), &ip(from), &ip(to), || false);
        assert_eq!(verdict, Verdict::DropLocalAddress, "{from} {to}");
    }
}

#[test]
fn is_forwarded_knows_the_answers_of_the_kernel() {
    for answer in [0, 6, 7, 8] {
        assert!(is_forwarded(answer), "{answer}");
    }
    // BLACKHOLE, UNREACHABLE, PROHIBIT, NOT_FWDED, FWD_DISABLED; and an errno.
    for answer in [1, 2, 3, 4, 5, -22] {
        assert!(!is_forwarded(answer), "{answer}");
    }
}
