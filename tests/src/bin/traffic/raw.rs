//! TCP SYNs from a raw socket and from a packet socket: the ways around connect().

#![expect(
    unsafe_code,
    reason = "raw sockets need a plain socket(2) for protocol TCP"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockaddrStorage, sendto};
use serde_json::json;

const SOURCE_PORT: u16 = 61_234;

pub(crate) fn send_syn(to: SocketAddr) -> Result<()> {
    let from = own_address(to)?;
    let family = if to.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    // SAFETY: takes no pointer; the descriptor it returns is owned by nobody else.
    let fd = Errno::result(unsafe {
        libc::socket(
            family,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::IPPROTO_TCP,
        )
    })?;
    // SAFETY: `fd` was just opened here.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };

    // A raw IPv6 socket takes the port for a protocol number.
    let target = SockaddrStorage::from(SocketAddr::new(to.ip(), 0));
    let segment = segment(from, to)?;
    let result = sendto(fd.as_raw_fd(), &segment, &target, MsgFlags::empty());
    println!(
        "{}",
        json!({"sent": result.is_ok(), "errno": result.err().map(|e| format!("{e:?}")), "source_port": SOURCE_PORT})
    );
    Ok(())
}

/// Sends the SYN to every station of eth0's network, so that no neighbour has to be known.
pub(crate) fn send_frame(to: SocketAddrV4) -> Result<()> {
    let IpAddr::V4(from) = own_address(to.into())? else {
        bail!("{to} is reached from no IPv4 address")
    };
    // SAFETY: takes no pointer; the descriptor it returns is owned by nobody else.
    let fd = Errno::result(unsafe {
        libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)
    })?;
    // SAFETY: `fd` was just opened here.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.ip().octets());
    let sum = checksum(&[&packet]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(segment(from.into(), to.into())?);
    let target = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_IP as u16).to_be(),
        sll_ifindex: nix::net::if_::if_nametoindex("eth0")? as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
    };
    // SAFETY: the packet and the address are as long as is said, and outlive the call.
    let sent = Errno::result(unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const target).cast(),
            size_of_val(&target) as libc::socklen_t,
        )
    });
    println!(
        "{}",
        json!({"sent": sent.is_ok(), "errno": sent.err().map(|e| format!("{e:?}")), "source_port": SOURCE_PORT})
    );
    Ok(())
}

/// The address from which `to` is reached: that of a UDP socket that is connected and sends
/// nothing.
fn own_address(to: SocketAddr) -> Result<IpAddr> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let probe = UdpSocket::bind((any, 0))?;
    probe.connect(to)?;
    Ok(probe.local_addr()?.ip())
}

/// A TCP header with SYN alone.
fn segment(from: IpAddr, to: SocketAddr) -> Result<[u8; 20]> {
    let mut segment = [0_u8; 20];
    segment[0..2].copy_from_slice(&SOURCE_PORT.to_be_bytes());
    segment[2..4].copy_from_slice(&to.port().to_be_bytes());
    segment[4..8].copy_from_slice(&0x1234_5678_u32.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = 0x02;
    segment[14..16].copy_from_slice(&64_240_u16.to_be_bytes());
    // The pseudo-headers of RFC 9293 §3.1 and RFC 8200 §8.1 sum up alike: addresses, length, 6.
    let rest = [0, 6, 0, 20];
    let checksum = match (from, to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            checksum(&[&from.octets(), &to.octets(), &rest, &segment])
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            checksum(&[&from.octets(), &to.octets(), &rest, &segment])
        }
        _ => bail!("{from} and {to} are not of one family"),
    };
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    Ok(segment)
}

/// The Internet checksum (RFC 1071) over parts of even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let sum: u32 = parts
        .iter()
        .flat_map(|part| part.chunks_exact(2))
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits")]
    let folded = ((folded & 0xffff) + (folded >> 16)) as u16;
    !folded
}
