//! The kubelet's probes. sock_ops on the kubelet's cgroup writes the tuple of
//! each connection down before its SYN leaves, and marks it when the kubelet's
//! socket is closed; sk_lookup and the guard ask for it. What is trusted is the
//! socket's cgroup, which the kernel attests, and no address.

use crate::maps::PROBES;
use crate::sockops::{AF_INET, DONE, local};
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE,
    bpf_sock_ops,
};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::SockOpsContext;
use mesh_common::ip::Ip;
use mesh_common::maps::{Probe, Tuple};
use mesh_common::probe::may_open;

/// A TCP event of one of the kubelet's sockets.
#[inline(always)]
pub fn kubelet_event(ctx: &SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => opens(ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => closed(ctx),
        _ => {}
    }
    DONE
}

/// Without being told of its end, a connection is not written down: the port
/// could become somebody else's unnoticed.
#[inline(always)]
fn opens(ctx: &SockOpsContext) {
    let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
    if ctx.set_cb_flags(flags as i32).is_err() {
        return;
    }
    let probe = Probe {
        // SAFETY: the helper takes nothing and returns a number.
        at_ns: unsafe { bpf_ktime_get_ns() },
        closed: 0,
        reserved: 0,
    };
    // Where there is no room, the connection is one as any other.
    let _full = PROBES.insert(tuple(ctx.ops), probe, 0);
}

/// The entry stays, for the packets with which the pod's end closes too.
#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    if let Some(probe) = PROBES.get_ptr_mut(tuple(ctx.ops)) {
        // SAFETY: not null, and the map's element stays allocated while the
        // program runs. Recycled meanwhile, it closes another's connection to
        // packets that open it: the probe is tried again.
        unsafe { (&raw mut (*probe).closed).write_volatile(1) };
    }
}

/// Whether the kubelet is opening this connection.
#[inline(always)]
pub fn opens_now(tuple: Tuple) -> bool {
    // SAFETY: the element stays allocated while the program runs; recycled while
    // it is read, it is at worst another connection of the kubelet.
    let probe = unsafe { PROBES.get(tuple) };
    // SAFETY: the helper takes nothing and returns a number.
    probe.is_some_and(|probe| may_open(probe, unsafe { bpf_ktime_get_ns() }))
}

/// Whether the kubelet has opened this connection; it may have closed it.
#[inline(always)]
pub fn is_known(tuple: Tuple) -> bool {
    // SAFETY: as in `opens_now`; nothing is read.
    unsafe { PROBES.get(tuple) }.is_some()
}

#[inline(always)]
fn tuple(ops: *const bpf_sock_ops) -> Tuple {
    let (kubelet, kubelet_port) = local(ops);
    // SAFETY: `ops` is the program's context. Word by word and volatile, since
    // the verifier refuses merged accesses.
    let (pod, pod_port) = unsafe {
        let ip = if (*ops).family == AF_INET {
            Ip::from_v4_word((*ops).remote_ip4)
        } else {
            Ip::from_words([
                (&raw const (*ops).remote_ip6[0]).read_volatile(),
                (&raw const (*ops).remote_ip6[1]).read_volatile(),
                (&raw const (*ops).remote_ip6[2]).read_volatile(),
                (&raw const (*ops).remote_ip6[3]).read_volatile(),
            ])
        };
        // In network order, in the upper half of a little-endian word.
        (ip, u32::from_be((*ops).remote_port) as u16)
    };
    Tuple {
        kubelet,
        pod,
        kubelet_port,
        pod_port,
    }
}
