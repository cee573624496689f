//! The kubelet's probes. sock_ops on the kubelet's cgroup writes the tuple of
//! each connection down before its SYN leaves; sk_lookup and the guard ask for
//! it. What is trusted is the socket's cgroup, which the kernel attests, and no
//! address. The entry is removed when both ends are closed: sock_ops on the pods
//! cgroup marks the pod's end. It opens nothing once the kubelet's end is closed.

use crate::maps::PROBES;
use crate::sockops::{DONE, local, remote};
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE,
};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::SockOpsContext;
use mesh_common::ip::Ip;
use mesh_common::maps::{PROBE_ACCEPTED, PROBE_ENDED, PROBE_OPENING, Probe, Tuple};
use mesh_common::probe::{may_open, outlives_kubelet, outlives_pod};

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
        pod: PROBE_OPENING,
    };
    // Where there is no room, the connection is one as any other.
    let _full = PROBES.insert(tuple(local(ctx.ops), remote(ctx.ops)), probe, 0);
}

/// Where the pod's end is open, the entry stays for the packets with which it closes too.
#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    let tuple = tuple(local(ctx.ops), remote(ctx.ops));
    let Some(probe) = PROBES.get_ptr_mut(tuple) else {
        return;
    };
    // SAFETY: not null, and the map's element stays allocated while the program
    // runs. Recycled meanwhile, it closes another's connection to packets that
    // open it: the probe is tried again.
    unsafe {
        if outlives_kubelet(&*probe) {
            (&raw mut (*probe).closed).write_volatile(1);
        } else {
            let _absent = PROBES.remove(tuple);
        }
    }
}

/// A pod's application has accepted a connection of the kubelet, perhaps.
#[inline(always)]
pub fn pod_accepts(ctx: &SockOpsContext, kubelet: (Ip, u16), pod: (Ip, u16)) {
    let Some(probe) = PROBES.get_ptr_mut(tuple(kubelet, pod)) else {
        return;
    };
    // Without a report of its end the entry would stay: the connection may then be
    // closed by the kubelet's end alone.
    let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
    if ctx.set_cb_flags(flags as i32).is_ok() {
        // SAFETY: as in `closed`.
        unsafe { (&raw mut (*probe).pod).write_volatile(PROBE_ACCEPTED) };
    }
}

/// A socket of a pod that accepted a connection of the kubelet is closed.
#[inline(always)]
pub fn pod_closes(kubelet: (Ip, u16), pod: (Ip, u16)) {
    let tuple = tuple(kubelet, pod);
    let Some(probe) = PROBES.get_ptr_mut(tuple) else {
        return;
    };
    // SAFETY: as in `closed`.
    unsafe {
        if outlives_pod(&*probe) {
            (&raw mut (*probe).pod).write_volatile(PROBE_ENDED);
        } else {
            let _absent = PROBES.remove(tuple);
        }
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

/// The connection between these ends.
#[inline(always)]
fn tuple((kubelet, kubelet_port): (Ip, u16), (pod, pod_port): (Ip, u16)) -> Tuple {
    Tuple {
        kubelet,
        pod,
        kubelet_port,
        pod_port,
    }
}
