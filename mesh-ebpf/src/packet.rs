//! Headers of a packet, read through whichever helper the type of program has. Used by the
//! guard and by the programs on the pods' devices.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{
    bpf_skb_load_bytes, bpf_skb_load_bytes_relative, bpf_skb_pull_data,
};
use core::mem::{MaybeUninit, size_of};
use mesh_common::guard::{Ipv6Next, Segment, Transport, ipv4_transport, ipv6_step, segment};
use mesh_common::ip::Ip;

pub const ETH_P_IP: u16 = 0x0800;
pub const ETH_P_IPV6: u16 = 0x86dd;
/// IPv6 extension headers before TCP; more than any sane packet has.
const MAX_EXTENSIONS: u32 = 6;
/// `BPF_HDR_START_NET` of uapi/linux/bpf.h.
const START_NET: u32 = 1;
/// Bytes that hold the headers of every packet that can be read here.
const HEADERS: u32 = 256;

/// A packet, read from the start of its IP header.
pub trait Packet {
    /// `N` bytes at `offset`.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;

    /// The same number, of which the verifier knows nothing any more, where a program is so
    /// long that it would walk the rest once for each of the number's ranges.
    #[inline(always)]
    fn opaque(&self, number: u32) -> u32 {
        number
    }
}

/// The packet of a cgroup_skb program, whose data begins with the IP header.
pub struct AtNetwork(pub *mut __sk_buff);

impl Packet for AtNetwork {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        let (to, size) = (bytes.as_mut_ptr().cast(), size_of::<[u8; N]>() as u32);
        // SAFETY: `to` is a buffer of the size given, and the helper checks the packet's end.
        let error = unsafe { bpf_skb_load_bytes(self.0.cast(), offset, to, size) };
        // SAFETY: the helper writes the whole buffer, zeros where it fails.
        (error == 0).then(|| unsafe { bytes.assume_init() })
    }
}

/// The packet of a tc program, whose data begins with the header of its device, if that has
/// one.
pub struct AtDevice(pub *mut __sk_buff);

impl AtDevice {
    /// Makes the headers of a packet readable that is not in one piece: the helper reads the
    /// first piece only.
    #[inline(always)]
    pub fn pull(&self) {
        // SAFETY: `self.0` is the program's context.
        unsafe {
            let len = (*self.0).len;
            let _short = bpf_skb_pull_data(self.0, if len < HEADERS { len } else { HEADERS });
        }
    }
}

impl Packet for AtDevice {
    #[inline(always)]
    fn opaque(&self, number: u32) -> u32 {
        // SAFETY: `self.0` is the program's context, whose control block tc programs may use
        // as they like.
        unsafe {
            let scratch = &raw mut (*self.0).cb[4];
            scratch.write_volatile(number);
            scratch.read_volatile()
        }
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        let (to, size) = (bytes.as_mut_ptr().cast(), size_of::<[u8; N]>() as u32);
        // SAFETY: as in `AtNetwork`.
        let error =
            unsafe { bpf_skb_load_bytes_relative(self.0.cast(), offset, to, size, START_NET) };
        // SAFETY: as in `AtNetwork`.
        (error == 0).then(|| unsafe { bytes.assume_init() })
    }
}

/// The transport of an IPv4 or IPv6 packet; `None` for other protocols.
#[inline(always)]
pub fn transport(packet: &impl Packet, protocol: u16) -> Option<Transport> {
    let transport = if protocol == ETH_P_IP.to_be() {
        transport4(packet)
    } else if protocol == ETH_P_IPV6.to_be() {
        transport6(packet)
    } else {
        return None;
    };
    Some(match transport {
        Transport::Tcp { offset, len } => Transport::Tcp {
            offset: packet.opaque(offset),
            len: packet.opaque(len),
        },
        other => other,
    })
}

#[inline(always)]
fn transport4(packet: &impl Packet) -> Transport {
    match packet.load::<20>(0) {
        Some(header) => ipv4_transport(&header),
        None => Transport::Unreadable,
    }
}

#[inline(always)]
fn transport6(packet: &impl Packet) -> Transport {
    let Some(header) = packet.load::<8>(0) else {
        return Transport::Unreadable;
    };
    let payload = u32::from(u16::from_be_bytes([header[4], header[5]]));
    let total = if payload == 0 { 0 } else { 40 + payload };
    let mut next = header[6];
    let mut offset = 40;
    for _ in 0..MAX_EXTENSIONS {
        // What is too short for these bytes can hold no TCP header either.
        let start = packet.load::<4>(offset).unwrap_or([0; 4]);
        match ipv6_step(next, offset, total, &start) {
            Ipv6Next::Is(transport) => return transport,
            Ipv6Next::Skip(bytes) => {
                next = start[0];
                offset = packet.opaque(offset + bytes);
            }
        }
    }
    Transport::Unreadable
}

/// The TCP segment of a packet, `None` when it cannot be read, with its source and
/// destination port.
#[inline(always)]
pub fn read_segment(packet: &impl Packet, transport: Transport) -> (Option<Segment>, [u16; 2]) {
    let Transport::Tcp { offset, len } = transport else {
        return (None, [0; 2]);
    };
    match packet.load::<20>(offset) {
        Some(header) => (
            Some(segment(&header, len)),
            [
                u16::from_be_bytes([header[0], header[1]]),
                u16::from_be_bytes([header[2], header[3]]),
            ],
        ),
        None => (None, [0; 2]),
    }
}

/// Source and destination address.
#[inline(always)]
pub fn addresses(packet: &impl Packet, protocol: u16) -> (Ip, Ip) {
    if protocol == ETH_P_IP.to_be() {
        let word = |offset| packet.load::<4>(offset).map_or(0, u32::from_ne_bytes);
        return (Ip::from_v4_word(word(12)), Ip::from_v4_word(word(16)));
    }
    let ip = |offset| {
        packet
            .load::<16>(offset)
            .map_or(Ip::UNSPECIFIED, |bytes| Ip { bytes })
    };
    (ip(8), ip(24))
}
