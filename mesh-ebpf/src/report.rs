//! Counting and telling: every refusal and drop is counted, and told to the
//! agent as long as the budget of its pod lasts on the CPU, so that a flood of
//! packets can drown neither the ring nor the agent's log.

use crate::maps::{COUNTERS, EVENT_BUDGET, EVENTS};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use mesh_common::counters::Counter;
use mesh_common::event::{EVENTS_PER_CPU_AND_SECOND, Event};

/// Adds one to `counter` on this CPU.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
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
    if !within_budget(&event) || EVENTS.output(event, 0).is_err() {
        count(Counter::EventsSuppressed);
    }
}

#[inline(always)]
fn within_budget(event: &Event) -> bool {
    let Some(budget) = EVENT_BUDGET.get_ptr_mut(event.budget()) else {
        return false;
    };
    let window = event.at_ns >> 30;
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
