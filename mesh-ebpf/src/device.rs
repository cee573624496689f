//! tc ingress and egress on the devices of an enrolled pod, but `lo`: TCP that leaves or
//! enters the pod without a socket of the pod. The filter's class id is the pod's number,
//! since the netns cookie is available here from Linux 6.12 only.

use crate::maps::{AGENT_SOCKETS, DEVICES, FORWARDED};
use crate::packet::{self, AtDevice, ETH_P_IP, ETH_P_IPV6, Packet};
use crate::probe;
use crate::report::{self, Ends};
use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_fib_lookup};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::{bpf_fib_lookup as fib_lookup, bpf_sk_fullsock};
use aya_ebpf::programs::TcContext;
use core::mem::{MaybeUninit, size_of};
use mesh_common::counters::Counter;
use mesh_common::device::{Origin, Verdict, egress as decide, ingress as decide_ingress};
use mesh_common::guard::{Segment, TCP, Transport};
use mesh_common::ip::Ip;
use mesh_common::maps::{Device, Tuple};

/// Go on with the filters after this one.
const PASS: i32 = TC_ACT_UNSPEC;
const DROP: i32 = TC_ACT_SHOT;
const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_8021AD: u16 = 0x88a8;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A packet that leaves by a device.
#[inline(always)]
pub fn egress(ctx: &TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: `skb` is the program's context; the verifier checks each access.
    let (protocol, origin) =
        unsafe { ((*skb).protocol as u16, Origin::of((*skb).ingress_ifindex)) };
    let tagged = protocol == ETH_P_8021Q.to_be() || protocol == ETH_P_8021AD.to_be();
    if !is_ip(protocol) && !tagged {
        return PASS;
    }
    // What needs no loop comes first: the verifier walks what follows a loop once for each way
    // out of it.
    let Some((number, device)) = device_of(skb) else {
        return PASS;
    };
    if origin == Origin::Local && is_agents(skb) {
        return PASS;
    }
    let packet = AtDevice(skb);
    pull_headers(&packet);
    let (source, destination) = packet::addresses(&packet, protocol);
    let transport = match packet::transport(&packet, protocol) {
        // A tag in the frame itself is a packet socket's: a VLAN device hands it over beside
        // the frame.
        None => Transport::Unreadable,
        Some(Transport::Other) => return PASS,
        Some(transport) => transport,
    };
    let (segment, [source_port, destination_port]) = packet::read_segment(&packet, transport);
    let segment = opaque_segment(&packet, segment);
    let counter = match decide(device.flags, origin, segment) {
        Verdict::Pass => return PASS,
        Verdict::PassForwarded => Counter::DeviceEgressForwarded,
        Verdict::DropForwarded => Counter::DeviceEgressForwardedStrict,
        Verdict::DropNewConnection => Counter::DeviceEgressNewConnection,
        Verdict::DropStrict => Counter::DeviceEgressStrict,
        Verdict::DropUnreadable | Verdict::DropLocalAddress => Counter::DeviceEgressUnreadable,
    };
    let counter = packet.opaque(counter as u32);
    if counter == Counter::DeviceEgressStrict as u32 {
        let tuple = Tuple {
            kubelet: destination,
            pod: source,
            kubelet_port: destination_port,
            pod_port: source_port,
        };
        if probe::is_known(tuple) {
            return PASS;
        }
    }
    let ends = Ends {
        local: Some(&source),
        remote: &destination,
        local_port: source_port,
        remote_port: destination_port,
    };
    finish(counter, number, device, &ends)
}

/// A packet that arrives at a device.
#[inline(always)]
pub fn ingress(ctx: &TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: as in `egress`.
    let protocol = unsafe { (*skb).protocol as u16 };
    if !is_ip(protocol) {
        return PASS;
    }
    let Some((number, device)) = device_of(skb) else {
        return PASS;
    };
    let packet = AtDevice(skb);
    pull_headers(&packet);
    let (source, destination) = packet::addresses(&packet, protocol);
    let v4 = protocol == ETH_P_IP.to_be();
    let forwards = || is_forwarded(skb, v4, &source, &destination);
    // As in `egress`: before the loop.
    let verdict = decide_ingress(device, &source, &destination, forwards);
    if verdict == Verdict::Pass {
        return PASS;
    }
    let transport = match packet::transport(&packet, protocol) {
        None | Some(Transport::Other) => return PASS,
        Some(transport) => transport,
    };
    let counter = match verdict {
        Verdict::PassForwarded => Counter::DeviceIngressForwarded,
        Verdict::DropForwarded => Counter::DeviceIngressForwardedStrict,
        Verdict::DropLocalAddress => Counter::DeviceIngressLocalAddress,
        _ => return PASS,
    };
    let counter = packet.opaque(counter as u32);
    let (_, [source_port, destination_port]) = packet::read_segment(&packet, transport);
    let ends = Ends {
        local: Some(&destination),
        remote: &source,
        local_port: destination_port,
        remote_port: source_port,
    };
    finish(counter, number, device, &ends)
}

#[inline(always)]
fn is_ip(protocol: u16) -> bool {
    protocol == ETH_P_IP.to_be() || protocol == ETH_P_IPV6.to_be()
}

/// Makes the headers readable of a packet that is not in one piece.
#[inline(always)]
fn pull_headers(packet: &AtDevice) {
    // The last byte of the shortest packet that has an IPv4 and a UDP header.
    if packet.load::<1>(27).is_none() {
        packet.pull();
    }
}

/// The pod to which the device belongs, with its number.
#[inline(always)]
fn device_of(skb: *mut __sk_buff) -> Option<(u32, &'static Device)> {
    // SAFETY: `skb` is the program's context. The kernel sets the class id to the filter's
    // before it runs the program.
    let number = unsafe { (*skb).tc_classid };
    let device = DEVICES.get(number)?;
    (device.netns_cookie != 0).then_some((number, device))
}

/// Whether the packet is of one of the agent's sockets.
#[inline(always)]
fn is_agents(skb: *mut __sk_buff) -> bool {
    // SAFETY: `skb` is the program's context; the verifier sees that neither pointer is null
    // where it is used.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return false;
        }
        let sk = bpf_sk_fullsock(sk);
        !sk.is_null() && AGENT_SOCKETS.contains(sk)
    }
}

/// Whether the namespace would forward the packet.
#[inline(always)]
fn is_forwarded(skb: *mut __sk_buff, v4: bool, source: &Ip, destination: &Ip) -> bool {
    let mut query = MaybeUninit::<bpf_fib_lookup>::uninit();
    let words = query.as_mut_ptr().cast::<u32>();
    for word in 0..size_of::<bpf_fib_lookup>() / size_of::<u32>() {
        // SAFETY: within the struct, which is aligned so. One word after the other, or the
        // compiler calls `memset`, whose loop costs the verifier much.
        unsafe { words.add(word).write_volatile(0) };
    }
    // SAFETY: integers and arrays of them, for which zero is a value.
    let mut query = unsafe { query.assume_init() };
    query.l4_protocol = TCP;
    // SAFETY: `skb` is the program's context.
    query.ifindex = unsafe { (*skb).ifindex };
    if v4 {
        let ([.., from], [.., to]) = (source.words(), destination.words());
        query.family = AF_INET;
        query.__bindgen_anon_3.ipv4_src = from;
        query.__bindgen_anon_4.ipv4_dst = to;
    } else {
        query.family = AF_INET6;
        query.__bindgen_anon_3.ipv6_src = source.words();
        query.__bindgen_anon_4.ipv6_dst = destination.words();
    }
    let size = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: `query` is of the size given.
    let answer = unsafe { fib_lookup(skb.cast(), &raw mut query, size, 0) };
    mesh_common::device::is_forwarded(answer)
}

/// The same, of which the verifier knows nothing any more; see [`Packet::opaque`].
#[inline(always)]
fn opaque_segment(packet: &AtDevice, segment: Option<Segment>) -> Option<Segment> {
    /// No segment has more than 9 bits.
    const NONE: u32 = 1 << 9;
    let known = segment.map_or(NONE, |it| u32::from(it.flags) | u32::from(it.payload) << 8);
    let bits = packet.opaque(known);
    (bits & NONE == 0).then_some(Segment {
        flags: bits as u8,
        payload: bits & 1 << 8 != 0,
    })
}

/// Counts what was decided, by the number of a [`Counter`], reports a drop, and returns the
/// program's answer.
#[inline(always)]
fn finish(counter: u32, number: u32, device: &Device, ends: &Ends<'_>) -> i32 {
    let passes = counter == Counter::DeviceEgressForwarded as u32
        || counter == Counter::DeviceIngressForwarded as u32;
    let forwarded = passes
        || counter == Counter::DeviceEgressForwardedStrict as u32
        || counter == Counter::DeviceIngressForwardedStrict as u32;
    if forwarded && let Some(forwarded) = FORWARDED.get_ptr_mut(number) {
        // SAFETY: the map's element, which lives as long as the map. Of two times either will
        // do.
        unsafe {
            if passes {
                add_one(&raw mut (*forwarded).passed);
                (&raw mut (*forwarded).passed_ns).write_volatile(bpf_ktime_get_ns());
            } else {
                add_one(&raw mut (*forwarded).dropped);
            }
        }
    }
    if passes {
        report::count_number(counter);
        return PASS;
    }
    report::tell_in_place(counter, device.netns_cookie, device.cgroup_id, ends);
    DROP
}

/// Without an atomic instruction, which the compiler has for this target in part only: of two
/// packets at one instant, one may not be counted here. The counters by CPU have both.
///
/// # Safety
/// `value` is aligned, and lives while the program runs.
#[inline(always)]
unsafe fn add_one(value: *mut u64) {
    // SAFETY: the caller's promise.
    unsafe { value.write_volatile(value.read_volatile() + 1) };
}
