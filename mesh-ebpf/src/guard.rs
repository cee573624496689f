//! cgroup_skb ingress and egress on the pods cgroup: drops what would cross an
//! enrolled pod's border without the agent, but for the kubelet's probes. The
//! pod is told by its cgroup, as the netns cookie is known here from Linux 6.15
//! only.

use crate::level;
use crate::packet::{self, AtNetwork};
use crate::probe;
use crate::report;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_skb_ancestor_cgroup_id;
use aya_ebpf::programs::SkBuffContext;
use mesh_common::counters::Counter;
use mesh_common::event::Event;
use mesh_common::guard::{Transport, Verdict, decide};
use mesh_common::maps::{Cgroup, Tuple};

const PASS: i32 = 1;
const DROP: i32 = 0;
/// Index of `lo`, the first interface of every network namespace. What is sent
/// to the namespace's own addresses goes through it, and nothing leaves by it.
const LOOPBACK_IFINDEX: u32 = 1;

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
    let packet = AtNetwork(skb);
    let transport = match packet::transport(&packet, protocol) {
        None | Some(Transport::Other) => return PASS,
        Some(transport) => transport,
    };
    let Some((cgroup_id, pod)) = enrolled(skb) else {
        return PASS;
    };
    let (segment, ports) = packet::read_segment(&packet, transport);
    let verdict = decide(pod.flags, segment);
    if verdict == Verdict::Pass {
        return PASS;
    }
    let (source, destination) = packet::addresses(&packet, protocol);
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
    level::enrolled(|level| unsafe { bpf_skb_ancestor_cgroup_id(skb, level as i32) })
}
