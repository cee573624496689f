//! The decision of the programs on a pod's devices: which TCP may cross them. The guard on
//! the pods cgroup sees the packets of the pod's sockets; these programs also see packets
//! that have no socket of the pod (forwarded ones, frames of a packet socket), and they stay
//! attached when a cgroup is removed.

use crate::guard::{Segment, tcp};
use crate::ip::{Ip, is_local};
use crate::maps::{CGROUP_STRICT, Device};

/// Index of `lo`, the first interface of every network namespace.
pub const LOOPBACK_IFINDEX: u32 = 1;

/// Where a packet that leaves by a device comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The namespace itself made it.
    Local,
    /// It arrived by `lo` and is forwarded: only a changed route does this.
    Loopback,
    /// It arrived by another device and is forwarded, by a route or by a bridge.
    Forwarded,
}

impl Origin {
    /// By the index of the interface that the packet arrived at, 0 for none.
    #[inline(always)]
    pub fn of(ingress_ifindex: u32) -> Self {
        match ingress_ifindex {
            0 => Self::Local,
            LOOPBACK_IFINDEX => Self::Loopback,
            _ => Self::Forwarded,
        }
    }
}

/// What becomes of a packet at a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let it pass.
    Pass,
    /// Let it pass, and count it: the pod forwards it and is not under STRICT.
    PassForwarded,
    /// The pod forwards it and is under STRICT.
    DropForwarded,
    /// It would open a connection around the agent.
    DropNewConnection,
    /// It carries data around the agent, and the pod is under STRICT.
    DropStrict,
    /// It is TCP, but cannot be read.
    DropUnreadable,
    /// It arrived from outside with addresses that are only used within a host.
    DropLocalAddress,
}

/// Decides on TCP that leaves by a device from a socket that is not the agent's, or from
/// none. `None` is TCP that cannot be read.
///
/// A SYN without ACK of the namespace itself never passes: the agent's own connections are
/// not asked about. A segment that carries no data and opens nothing passes: the kernel makes
/// resets, acknowledgements of connections in TIME_WAIT and SYN-ACKs without a socket, or
/// with one of its own. Other data passes where connections older than the enrolment may go
/// on; the caller spares answers to the kubelet's probes.
#[inline(always)]
pub fn egress(flags: u32, origin: Origin, segment: Option<Segment>) -> Verdict {
    let strict = flags & CGROUP_STRICT != 0;
    if origin != Origin::Local && strict {
        return Verdict::DropForwarded;
    }
    if origin == Origin::Forwarded {
        return Verdict::PassForwarded;
    }
    let Some(segment) = segment else {
        return Verdict::DropUnreadable;
    };
    if segment.flags & tcp::SYN != 0 && segment.flags & tcp::ACK == 0 {
        return Verdict::DropNewConnection;
    }
    if origin == Origin::Loopback {
        return Verdict::PassForwarded;
    }
    if strict && segment.payload {
        return Verdict::DropStrict;
    }
    Verdict::Pass
}

/// Whether the namespace itself may be the destination of a packet that arrived: `None` when
/// only the routes can tell.
#[inline(always)]
pub fn is_for_pod(device: &Device, destination: &Ip) -> Option<bool> {
    let own = destination.same(&device.ipv4) || destination.same(&device.ipv6);
    if own || destination.is_multicast() || destination.is_v6_link_local() {
        return Some(true);
    }
    None
}

/// Decides on TCP that arrives at a device. `forwards` says whether the namespace would
/// forward it, and is asked last.
#[inline(always)]
pub fn ingress(
    device: &Device,
    source: &Ip,
    destination: &Ip,
    forwards: impl FnOnce() -> bool,
) -> Verdict {
    if is_local(source, destination) {
        return Verdict::DropLocalAddress;
    }
    if is_for_pod(device, destination).is_some() || !forwards() {
        return Verdict::Pass;
    }
    if device.flags & CGROUP_STRICT != 0 {
        Verdict::DropForwarded
    } else {
        Verdict::PassForwarded
    }
}

/// Whether an answer of `bpf_fib_lookup` (`BPF_FIB_LKUP_RET_*` of uapi/linux/bpf.h) means
/// that the packet is forwarded: there is a route (0), one over a tunnel device (6), one whose
/// neighbour is not known yet (7), or one with a smaller MTU (8). The others mean that it is
/// for the namespace itself, or that the kernel drops it.
#[inline(always)]
pub fn is_forwarded(fib_answer: i64) -> bool {
    matches!(fib_answer, 0 | 6 | 7 | 8)
}

#[cfg(test)]
mod tests;
