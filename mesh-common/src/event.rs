//! What the kernel programs tell the agent of, one record for a refusal or a
//! dropped packet, limited in rate for each CPU and pod.

use crate::counters::Counter;
use crate::ip::Ip;

/// Events that one CPU sends in a second at most of pods that share a budget; the rest is only
/// counted.
pub const EVENTS_PER_CPU_AND_SECOND: u64 = 32;

/// Budgets of each CPU, over which pods are spread, so that one pod's flood uses up the events
/// of few others at most.
pub const EVENT_BUDGETS: usize = 1 << EVENT_BUDGET_BITS;

const EVENT_BUDGET_BITS: u32 = 8;

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

/// Which of [`EVENT_BUDGETS`] the pod with this cgroup uses. The kernel counts the ids of
/// cgroups up; Fibonacci hashing spreads these evenly.
#[inline(always)]
pub fn budget_of(cgroup_id: u64) -> u32 {
    (cgroup_id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - EVENT_BUDGET_BITS)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_budget_of_neighbouring_cgroups_differs() {
        let mut used = [0_u32; EVENT_BUDGETS];
        for cgroup in 0..110 {
            used[budget_of(5000 + 3 * cgroup) as usize] += 1;
        }
        assert!(used.iter().all(|pods| *pods <= 2), "{used:?}");
    }
}
