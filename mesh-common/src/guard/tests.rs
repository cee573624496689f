//! Tests of the guard's decisions and of the header parsing beneath them.

use super::*;

fn ipv4(protocol: u8, first: u8, total: u16, fragment: u16) -> [u8; 20] {
    let mut header = [0; 20];
    header[0] = first;
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[6..8].copy_from_slice(&fragment.to_be_bytes());
    header[9] = protocol;
    header
}

#[test]
fn ipv4_tcp_is_found_behind_options() {
    let plain = ipv4_transport(&ipv4(6, 0x45, 60, 0x4000));
    let options = ipv4_transport(&ipv4(6, 0x46, 60, 0));
    assert_eq!(
        plain,
        Transport::Tcp {
            offset: 20,
            len: 40
        }
    );
    assert_eq!(
        options,
        Transport::Tcp {
            offset: 24,
            len: 36
        }
    );
    assert_eq!(ipv4_transport(&ipv4(17, 0x45, 60, 0)), Transport::Other);
}

#[test]
fn ipv4_that_hides_its_tcp_header_is_unreadable() {
    for header in [
        ipv4(6, 0x45, 60, 0x0001), // a later fragment
        ipv4(6, 0x44, 60, 0),      // a header shorter than a header
        ipv4(6, 0x45, 39, 0),      // no room for TCP
        ipv4(6, 0x4f, 60, 0),      // all options, no TCP
    ] {
        assert_eq!(ipv4_transport(&header), Transport::Unreadable);
    }
    // The first fragment of several holds the TCP header.
    let first = ipv4_transport(&ipv4(6, 0x45, 60, 0x2000));
    assert_eq!(
        first,
        Transport::Tcp {
            offset: 20,
            len: 40
        }
    );
}

#[test]
fn a_packet_above_64_kib_has_no_length_and_counts_as_payload() {
    let Transport::Tcp { len, .. } = ipv4_transport(&ipv4(6, 0x45, 0, 0)) else {
        panic!("TCP expected");
    };
    let mut header = [0; 20];
    header[12] = 0x50;
    assert!(segment(&header, len).payload);
}

#[test]
fn ipv6_chain() {
    use Ipv6Next::{Is, Skip};
    let tcp = |offset, len| Is(Transport::Tcp { offset, len });
    assert_eq!(ipv6_step(6, 40, 60, &[0; 4]), tcp(40, 20));
    assert_eq!(ipv6_step(6, 40, 0, &[0; 4]), tcp(40, u32::MAX));
    assert_eq!(ipv6_step(6, 48, 60, &[0; 4]), Is(Transport::Unreadable));
    assert_eq!(ipv6_step(0, 40, 90, &[6, 0, 0, 0]), Skip(8));
    assert_eq!(ipv6_step(43, 40, 90, &[6, 2, 0, 0]), Skip(24));
    assert_eq!(ipv6_step(60, 40, 90, &[6, 255, 0, 0]), Skip(2048));
    assert_eq!(ipv6_step(51, 40, 90, &[6, 4, 0, 0]), Skip(24));
    assert_eq!(ipv6_step(44, 40, 90, &[6, 0, 0, 1]), Skip(8));
    let later = ipv6_step(44, 40, 90, &[6, 0, 0, 8]);
    assert_eq!(later, Is(Transport::Unreadable));
    assert_eq!(ipv6_step(58, 40, 90, &[0; 4]), Is(Transport::Other));
    assert_eq!(ipv6_step(17, 40, 90, &[0; 4]), Is(Transport::Other));
}

#[test]
fn segments() {
    let mut header = [0; 20];
    header[12] = 0x80;
    header[13] = tcp::RST;
    assert!(!segment(&header, 32).payload);
    assert!(segment(&header, 33).payload);
    assert_eq!(segment(&header, 32).flags, tcp::RST);
}

#[test]
fn verdicts() {
    use Verdict::{DropNewConnection, DropStrict, Pass};
    const FIN: u8 = 0x01;
    for (flags, payload, permissive, strict) in [
        (tcp::SYN, false, DropNewConnection, DropNewConnection),
        (tcp::SYN, true, DropNewConnection, DropNewConnection),
        (
            tcp::SYN | tcp::RST,
            false,
            DropNewConnection,
            DropNewConnection,
        ),
        (tcp::SYN | tcp::ACK, false, Pass, DropStrict),
        (tcp::ACK, false, Pass, DropStrict),
        (tcp::ACK, true, Pass, DropStrict),
        (tcp::ACK | FIN, false, Pass, DropStrict),
        (tcp::RST, false, Pass, Pass),
        (tcp::RST | tcp::ACK, false, Pass, Pass),
        (tcp::RST | tcp::ACK, true, Pass, DropStrict),
        (tcp::RST | tcp::SYN | tcp::ACK, false, Pass, DropStrict),
    ] {
        let segment = Some(Segment { flags, payload });
        assert_eq!(decide(0, segment), permissive, "{flags:#x} {payload}");
        assert_eq!(
            decide(CGROUP_STRICT, segment),
            strict,
            "{flags:#x} {payload}"
        );
    }
    assert_eq!(decide(0, None), Verdict::DropUnreadable);
    assert_eq!(decide(CGROUP_STRICT, None), Verdict::DropUnreadable);
}
