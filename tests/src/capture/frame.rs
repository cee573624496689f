//! The packet socket, and Ethernet, IPv4, IPv6 and TCP as far as the recording needs them.

#![expect(unsafe_code, reason = "packet sockets' options are not in nix")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt,
};

/// One TCP segment.
pub(super) struct Segment<'a> {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) syn: bool,
    pub(super) ack: bool,
    pub(super) payload: &'a [u8],
}

/// A socket that sees each frame once: where it enters the bridge.
///
/// It is bound to no interface, and therefore hears every port of the bridge; frames that leave
/// by a port are ignored (`PACKET_IGNORE_OUTGOING`, Linux 4.20).
pub(super) fn open_socket() -> Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )
    .context("opening a packet socket")?;
    setsockopt(&fd, sockopt::RcvBufForce, &(256 << 20))?;
    set_int(&fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
    Ok(fd)
}

/// How many frames the kernel had no room for since the last call.
pub(super) fn dropped(fd: &OwnedFd) -> Result<u32> {
    let mut statistics = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = libc::socklen_t::try_from(size_of_val(&statistics))?;
    // SAFETY: the kernel writes at most `length` bytes into `statistics`, a plain C struct.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    nix::errno::Errno::result(result).context("asking for dropped frames")?;
    Ok(statistics.tp_drops)
}

/// Takes a frame apart; `None` for what is not TCP.
pub(super) fn parse(frame: &[u8]) -> Option<Segment<'_>> {
    let packet = frame.get(14..)?;
    let (source, destination, tcp) = match frame.get(12..14)? {
        [0x08, 0x00] => ipv4(packet)?,
        [0x86, 0xdd] => ipv6(packet)?,
        _ => return None,
    };
    let flags = *tcp.get(13)?;
    Some(Segment {
        from: SocketAddr::new(source, u16::from_be_bytes([*tcp.first()?, *tcp.get(1)?])),
        to: SocketAddr::new(
            destination,
            u16::from_be_bytes([*tcp.get(2)?, *tcp.get(3)?]),
        ),
        syn: flags & 0x02 != 0,
        ack: flags & 0x10 != 0,
        payload: tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?,
    })
}

fn ipv4(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let header = packet.get(..20)?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
    if header[9] != 6 || fragment != 0 {
        return None;
    }
    let source: [u8; 4] = header[12..16].try_into().ok()?;
    let destination: [u8; 4] = header[16..20].try_into().ok()?;
    let tcp = packet.get(usize::from(header[0] & 0xf) * 4..length)?;
    Some((
        Ipv4Addr::from(source).into(),
        Ipv4Addr::from(destination).into(),
        tcp,
    ))
}

fn ipv6(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let header = packet.get(..40)?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[6] != 6 {
        return None;
    }
    let source: [u8; 16] = header[8..24].try_into().ok()?;
    let destination: [u8; 16] = header[24..40].try_into().ok()?;
    Some((
        Ipv6Addr::from(source).into(),
        Ipv6Addr::from(destination).into(),
        packet.get(40..40 + length)?,
    ))
}

fn set_int(fd: &OwnedFd, level: i32, option: i32, value: i32) -> Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&value))?;
    // SAFETY: the kernel reads `length` bytes of `value`, which lives through the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            length,
        )
    };
    nix::errno::Errno::result(result).with_context(|| format!("setting socket option {option}"))?;
    Ok(())
}
