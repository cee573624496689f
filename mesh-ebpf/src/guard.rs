//! cgroup_skb ingress and egress on the pods cgroup: drops what would cross an
//! enrolled pod's border without the agent, but for the kubelet's probes. The
//! pod is told by its cgroup, as the netns cookie is known here from Linux 6.15
//! only.

use crate::level;
use crate::maps::CGROUPS;
use crate::probe;
use crate::report;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_skb_ancestor_cgroup_id, bpf_skb_load_bytes};
use aya_ebpf::programs::SkBuffContext;
use core::mem::size_of;
use mesh_common::counters::Counter;
use mesh_common::event::Event;
use mesh_common::guard::{
    Ipv6Next, Segment, Transport, Verdict, decide, ipv4_transport, ipv6_step, segment,
};
use mesh_common::ip::Ip;
use mesh_common::maps::{Cgroup, MAX_DEPTH, Tuple};

const PASS: i32 = 1;
const DROP: i32 = 0;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
/// Index of `lo`, the first interface of every network namespace. What is sent
/// to the namespace's own addresses goes through it, and nothing leaves by it.
const LOOPBACK_IFINDEX: u32 = 1;
/// IPv6 extension headers before TCP; more than any sane packet has.
const MAX_EXTENSIONS: u32 = 6;

/// What differs between the two directions.
pub struct Direction {
    ingress: bool,
    new_connection: Counter,
    strict: Counter,
    unreadable: Counter,
}

/// What arrives at the pod's sockets.
pub const INGRESS: Direction = Direction {
    ingress: true,
    new_connection: Counter::IngressNewConnection,
    strict: Counter::IngressStrict,
    unreadable: Counter::IngressUnreadable,
};

/// What the pod's sockets send.
pub const EGRESS: Direction = Direction {
    ingress: false,
    new_connection: Counter::EgressNewConnection,
    strict: Counter::EgressStrict,
    unreadable: Counter::EgressUnreadable,
};

/// The verdict on a packet.
#[inline(always)]
pub fn guard(ctx: &SkBuffContext, direction: &Direction) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: `skb` is the program's context; the verifier checks each access.
    let (ifindex, protocol) = unsafe { ((*skb).ifindex, (*skb).protocol as u16) };
    if ifindex == LOOPBACK_IFINDEX {
        return PASS;
    }
    let v4 = protocol == ETH_P_IP.to_be();
    let transport = if v4 {
        transport4(skb)
    } else if protocol == ETH_P_IPV6.to_be() {
        transport6(skb)
    } else {
        return PASS;
    };
    if transport == Transport::Other {
        return PASS;
    }
    let Some((cgroup_id, pod)) = enrolled(skb) else {
        return PASS;
    };
    let (segment, ports) = match transport {
        Transport::Tcp { offset, len } => read_segment(skb, offset, len),
        _ => (None, [0; 2]),
    };
    let verdict = decide(pod.flags, segment);
    if verdict == Verdict::Pass {
        return PASS;
    }
    let (source, destination) = addresses(skb, v4);
    let [source_port, destination_port] = ports;
    let (local, remote) = if direction.ingress {
        ((destination, destination_port), (source, source_port))
    } else {
        ((source, source_port), (destination, destination_port))
    };
    let tuple = || Tuple {
        kubelet: remote.0,
        pod: local.0,
        kubelet_port: remote.1,
        pod_port: local.1,
    };
    let counter = match verdict {
        // A pod opens no connection to the kubelet as its answer to a probe.
        Verdict::DropNewConnection if direction.ingress && probe::opens_now(tuple()) => {
            return PASS;
        }
        Verdict::DropStrict if probe::is_known(tuple()) => return PASS,
        Verdict::Pass => return PASS,
        Verdict::DropNewConnection => direction.new_connection,
        Verdict::DropStrict => direction.strict,
        Verdict::DropUnreadable => direction.unreadable,
    };
    let event = Event {
        at_ns: 0,
        netns_cookie: pod.netns_cookie,
        cgroup_id,
        local: local.0,
        remote: remote.0,
        kind: 0,
        local_port: local.1,
        remote_port: remote.1,
    };
    report::tell(counter, event);
    DROP
}

/// The enrolled pod whose socket this is, with its cgroup id.
#[inline(always)]
fn enrolled(skb: *mut __sk_buff) -> Option<(u64, &'static Cgroup)> {
    // SAFETY: `skb` is the program's context.
    let ancestor = |level: u32| unsafe { bpf_skb_ancestor_cgroup_id(skb, level as i32) };
    let meta = level::meta()?;
    let base = level::pods_level(meta, ancestor)?;
    // SAFETY: the map's entry; the agent replaces a whole number.
    let depths = unsafe { (&raw const (*meta).depths).read_volatile() };
    for depth in 1..=MAX_DEPTH {
        if depths & (1 << depth) == 0 {
            continue;
        }
        let cgroup_id = ancestor(base + depth);
        // SAFETY: an update writes a new element; deleting it while it is read
        // at worst judges one packet by the entry that took its place.
        if let Some(pod) = unsafe { CGROUPS.get(cgroup_id) } {
            return Some((cgroup_id, pod));
        }
    }
    None
}

#[inline(always)]
fn transport4(skb: *mut __sk_buff) -> Transport {
    match load::<20>(skb, 0) {
        Some(header) => ipv4_transport(&header),
        None => Transport::Unreadable,
    }
}

#[inline(always)]
fn transport6(skb: *mut __sk_buff) -> Transport {
    let Some(header) = load::<8>(skb, 0) else {
        return Transport::Unreadable;
    };
    let payload = u32::from(u16::from_be_bytes([header[4], header[5]]));
    let total = if payload == 0 { 0 } else { 40 + payload };
    let mut next = header[6];
    let mut offset = 40;
    for _ in 0..MAX_EXTENSIONS {
        // What is too short for these bytes can hold no TCP header either.
        let start = load::<4>(skb, offset).unwrap_or([0; 4]);
        match ipv6_step(next, offset, total, &start) {
            Ipv6Next::Is(transport) => return transport,
            Ipv6Next::Skip(bytes) => {
                next = start[0];
                offset += bytes;
            }
        }
    }
    Transport::Unreadable
}

#[inline(always)]
fn read_segment(skb: *mut __sk_buff, offset: u32, len: u32) -> (Option<Segment>, [u16; 2]) {
    match load::<20>(skb, offset) {
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

/// Source and destination, for the event.
#[inline(always)]
fn addresses(skb: *mut __sk_buff, v4: bool) -> (Ip, Ip) {
    if v4 {
        let word = |offset| load::<4>(skb, offset).map_or(0, u32::from_ne_bytes);
        return (Ip::from_v4_word(word(12)), Ip::from_v4_word(word(16)));
    }
    let ip = |offset| load::<16>(skb, offset).map_or(Ip::UNSPECIFIED, |bytes| Ip { bytes });
    (ip(8), ip(24))
}

/// `N` bytes at `offset` from the start of the IP header.
#[inline(always)]
fn load<const N: usize>(skb: *mut __sk_buff, offset: u32) -> Option<[u8; N]> {
    let mut bytes = [0u8; N];
    let to = (&raw mut bytes).cast();
    // SAFETY: `to` is a buffer of the size given, and the helper checks the
    // packet's end.
    let error = unsafe { bpf_skb_load_bytes(skb.cast(), offset, to, size_of::<[u8; N]>() as u32) };
    (error == 0).then_some(bytes)
}
