//! The guard's decision: what TCP of an enrolled pod may cross the pod's border
//! without the agent. Asked by the cgroup_skb programs for packets that are not
//! on the loopback interface. The agent's own sockets are
//! in no enrolled pod's cgroup, whatever namespace they are in, and are let pass.

use crate::maps::CGROUP_STRICT;

/// TCP header flags (RFC 9293 §3.1) that the guard reads.
pub mod tcp {
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// ACK.
    pub const ACK: u8 = 0x10;
}

/// IP protocol number of TCP.
pub const TCP: u8 = 6;

/// The transport of a packet, as far as the IP header tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Something else than TCP.
    Other,
    /// TCP, with its header at `offset` and `len` bytes of it and its payload.
    Tcp {
        /// Bytes from the start of the IP header.
        offset: u32,
        /// Bytes of TCP header and payload.
        len: u32,
    },
    /// TCP whose header is not in this packet, or not to be found: a fragment,
    /// or lengths that contradict each other.
    Unreadable,
}

/// A TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Flags of the header's 14th byte.
    pub flags: u8,
    /// Whether it carries data.
    pub payload: bool,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let it pass.
    Pass,
    /// It would open a connection around the agent.
    DropNewConnection,
    /// The pod admits no plaintext.
    DropStrict,
    /// It is TCP, but cannot be read.
    DropUnreadable,
}

/// Reads an IPv4 header of 20 bytes (RFC 791 §3.1).
#[inline(always)]
pub fn ipv4_transport(header: &[u8; 20]) -> Transport {
    if header[9] != TCP {
        return Transport::Other;
    }
    let offset = u32::from(header[0] & 0x0f) * 4;
    let total = u32::from(u16::from_be_bytes([header[2], header[3]]));
    let fragment_offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    // A total length of 0 is a packet above 64 KiB before segmentation.
    if fragment_offset != 0 || offset < 20 || (total != 0 && total < offset + 20) {
        return Transport::Unreadable;
    }
    let len = if total == 0 { u32::MAX } else { total - offset };
    Transport::Tcp { offset, len }
}

/// One step along the chain of IPv6 extension headers (RFC 8200 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv6Next {
    /// The chain ends here.
    Is(Transport),
    /// An extension header of this many bytes comes first.
    Skip(u32),
}

/// Judges what stands at `offset` bytes in a packet of `total` bytes: a header
/// of type `next`, of which `start` are the first four bytes. `total` 0 is a
/// packet above 64 KiB.
#[inline(always)]
pub fn ipv6_step(next: u8, offset: u32, total: u32, start: &[u8; 4]) -> Ipv6Next {
    match next {
        TCP if total != 0 && total < offset + 20 => Ipv6Next::Is(Transport::Unreadable),
        TCP => {
            let len = if total == 0 { u32::MAX } else { total - offset };
            Ipv6Next::Is(Transport::Tcp { offset, len })
        }
        // Hop-by-hop, routing, destination options: length in units of 8 bytes
        // beyond the first 8.
        0 | 43 | 60 => Ipv6Next::Skip(8 + 8 * u32::from(start[1])),
        // Fragment header, with an offset other than 0 in its upper 13 bits.
        44 if u16::from_be_bytes([start[2], start[3]]) & 0xfff8 != 0 => {
            Ipv6Next::Is(Transport::Unreadable)
        }
        44 => Ipv6Next::Skip(8),
        // Authentication header: in units of 4 bytes beyond the first 8.
        51 => Ipv6Next::Skip(8 + 4 * u32::from(start[1])),
        _ => Ipv6Next::Is(Transport::Other),
    }
}

/// Reads the fixed 20 bytes of a TCP header, of a segment of `len` bytes.
#[inline(always)]
pub fn segment(header: &[u8; 20], len: u32) -> Segment {
    let header_len = u32::from(header[12] >> 4) * 4;
    Segment {
        flags: header[13],
        payload: len > header_len,
    }
}

/// Decides on a segment of an enrolled pod; `None` is TCP that cannot be read.
///
/// A SYN without ACK never passes: nothing opens a connection around the agent.
/// Under STRICT nothing passes but a bare reset, which carries no data and is
/// how the other end of a connection that the agent destroys learns of it.
/// Otherwise connections older than the enrolment go on.
#[inline(always)]
pub fn decide(flags: u32, segment: Option<Segment>) -> Verdict {
    let Some(segment) = segment else {
        return Verdict::DropUnreadable;
    };
    let syn = segment.flags & tcp::SYN != 0;
    let bare_reset = segment.flags & tcp::RST != 0 && !syn && !segment.payload;
    if syn && segment.flags & tcp::ACK == 0 {
        return Verdict::DropNewConnection;
    }
    if flags & CGROUP_STRICT != 0 && !bare_reset {
        return Verdict::DropStrict;
    }
    Verdict::Pass
}

#[cfg(test)]
mod tests;
