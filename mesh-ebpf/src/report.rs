//! Counting and telling: every refusal and drop is counted, and told to the
//! agent as long as the budget of its pod lasts on the CPU, so that a flood of
//! packets can drown neither the ring nor the agent's log.

use crate::maps::{COUNTERS, EVENT_BUDGET, EVENTS};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use mesh_common::counters::Counter;
use mesh_common::event::{EVENTS_PER_CPU_AND_SECOND, Event, budget_of};
use mesh_common::ip::Ip;

/// Adds one to `counter` on this CPU.
#[inline(always)]
pub fn count(counter: Counter) {
    count_number(counter as u32);
}

/// [`count`] by the counter's number.
#[inline(always)]
pub fn count_number(counter: u32) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter) {
        // SAFETY: this CPU's own entry. A program that interrupts this one on
        // the same CPU may cost a count, never more.
        unsafe { *value += 1 };
    }
}

/// Counts an event and tells the agent of it; `at_ns` is filled in here.
#[inline(always)]
pub fn tell(counter: Counter, mut event: Event) {
    count(counter);
    // SAFETY: the helper takes nothing and returns a number.
    event.at_ns = unsafe { bpf_ktime_get_ns() };
    event.kind = counter as u32;
    if !within_budget(event.cgroup_id, event.at_ns) || EVENTS.output(event, 0).is_err() {
        count(Counter::EventsSuppressed);
    }
}

/// The two ends of a packet or a call, the pod's first.
pub struct Ends<'a> {
    /// Unspecified where it is not chosen yet.
    pub local: Option<&'a Ip>,
    pub remote: &'a Ip,
    pub local_port: u16,
    pub remote_port: u16,
}

/// As [`tell`], written in place: for programs whose stack has no room for an [`Event`]. A
/// function of its own would have room, but before Linux 6.6 the verifier forgets at each call
/// which numbers matter, and walks every path anew. `memset` is such a function too.
#[inline(always)]
pub fn tell_in_place(counter: u32, netns_cookie: u64, cgroup_id: u64, ends: &Ends<'_>) {
    count_number(counter);
    // SAFETY: the helper takes nothing and returns a number.
    let now = unsafe { bpf_ktime_get_ns() };
    let reserved = within_budget(cgroup_id, now)
        .then(|| EVENTS.reserve(0))
        .flatten();
    let Some(mut entry) = reserved else {
        return count(Counter::EventsSuppressed);
    };
    let event = entry.as_mut_ptr();
    // SAFETY: the ring's memory for one event, all fields of which are written here.
    unsafe {
        (&raw mut (*event).at_ns).write_volatile(now);
        (&raw mut (*event).netns_cookie).write_volatile(netns_cookie);
        (&raw mut (*event).cgroup_id).write_volatile(cgroup_id);
        match ends.local {
            Some(local) => (*event).local = *local,
            None => {
                let words = (&raw mut (*event).local).cast::<u64>();
                words.write_volatile(0);
                words.add(1).write_volatile(0);
            }
        }
        (*event).remote = *ends.remote;
        (&raw mut (*event).kind).write_volatile(counter);
        (&raw mut (*event).local_port).write_volatile(ends.local_port);
        (&raw mut (*event).remote_port).write_volatile(ends.remote_port);
    }
    entry.submit(0);
}

#[inline(always)]
fn within_budget(cgroup_id: u64, at_ns: u64) -> bool {
    let Some(budget) = EVENT_BUDGET.get_ptr_mut(budget_of(cgroup_id)) else {
        return false;
    };
    let window = at_ns >> 30;
    // SAFETY: this CPU's own entry, as in `count`.
    unsafe {
        if (*budget).window != window {
            (*budget).window = window;
            (*budget).sent = 0;
        }
        if (*budget).sent >= EVENTS_PER_CPU_AND_SECOND {
            return false;
        }
        (*budget).sent += 1;
    }
    true
}
