//! What the kernel programs tell the agent of, one record for a refusal or a
//! dropped packet, limited in rate for each CPU.

use crate::counters::Counter;
use crate::ip::Ip;

/// Events that one CPU sends in a second at most; the rest is only counted.
pub const EVENTS_PER_CPU_AND_SECOND: u64 = 32;

/// One refusal or dropped packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds since boot, without suspend (`CLOCK_MONOTONIC`).
    pub at_ns: u64,
    /// Cookie of the pod's network namespace.
    pub netns_cookie: u64,
    /// Cgroup of the pod; for a caller outside the pod's cgroup, the pod's.
    pub cgroup_id: u64,
    /// The pod's address; unspecified where it is not chosen yet.
    pub local: Ip,
    /// The other end's address.
    pub remote: Ip,
    /// What happened: a [`Counter`].
    pub kind: u32,
    /// The pod's port, host order; 0 where it is not chosen yet.
    pub local_port: u16,
    /// The other end's port, host order.
    pub remote_port: u16,
}

impl Event {
    /// What happened; `None` for a number that this version does not know.
    pub fn counter(&self) -> Option<Counter> {
        Counter::ALL.get(self.kind as usize).copied()
    }
}

const _: () = assert!(core::mem::size_of::<Event>() == 64);
