//! Which endpoint of a service a connection tries first, and which next: what a worker
//! has seen of endpoints. Asked by `outbound`.
//!
//! The least loaded of two drawn at random (Mitzenmacher, "The Power of Two Choices in
//! Randomized Load Balancing", 2001), by the connections that this worker has open to
//! each. Connections are dealt to the workers in turn, so that its share is like the
//! whole, and nothing is shared or locked.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::model::Endpoint;

/// How long after a failure an endpoint is tried after all others. Shorter than the time
/// in which Kubernetes takes a failed pod for unready (by default three probes, 10 s
/// apart), long enough that few connections pay for it.
const SHUNNED: Duration = Duration::from_secs(10);

/// Failed endpoints that are remembered; with more, the oldest are forgotten.
const MAX_FAILED: usize = 1024;

/// What one worker has seen of endpoints.
#[derive(Debug, Default)]
pub(super) struct Balance {
    /// Connections being made or open, by endpoint.
    open: RefCell<HashMap<SocketAddr, usize>>,
    /// When each last failed.
    failed: RefCell<HashMap<SocketAddr, Instant>>,
}

/// Counts one connection to an endpoint until it is dropped.
#[derive(Debug)]
pub(super) struct Busy {
    balance: Rc<Balance>,
    addr: SocketAddr,
}

impl Balance {
    /// The place of the endpoint to try first. `endpoints` are not empty; `random` draws.
    pub(super) fn choose(&self, endpoints: &[Endpoint], random: u64, now: Instant) -> usize {
        let (one, other) = draw(endpoints.len(), random);
        let shunned = |place: usize| self.is_shunned(endpoints[place].addr, now);
        match (shunned(one), shunned(other)) {
            (false, false) if self.load(endpoints[other].addr) < self.load(endpoints[one].addr) => {
                other
            }
            (false, _) => one,
            (true, false) => other,
            (true, true) => {
                let next = others(endpoints.len(), one).find(|place| !shunned(*place));
                next.unwrap_or(one)
            }
        }
    }

    /// The places to try when the `first` has failed, at most `limit`: those that failed
    /// lately come last.
    pub(super) fn rest(
        &self,
        endpoints: &[Endpoint],
        first: usize,
        limit: usize,
        now: Instant,
    ) -> Vec<usize> {
        let shunned = |place: &usize| self.is_shunned(endpoints[*place].addr, now);
        let sound = others(endpoints.len(), first).filter(|place| !shunned(place));
        let failed = others(endpoints.len(), first).filter(shunned);
        sound.chain(failed).take(limit).collect()
    }

    /// Counts a connection to `addr` from now on.
    pub(super) fn busy(self: &Rc<Self>, addr: SocketAddr) -> Busy {
        *self.open.borrow_mut().entry(addr).or_default() += 1;
        Busy {
            balance: Rc::clone(self),
            addr,
        }
    }

    /// A connection to `addr` could not be made.
    pub(super) fn failed(&self, addr: SocketAddr, now: Instant) {
        let mut failed = self.failed.borrow_mut();
        if failed.len() >= MAX_FAILED {
            failed.retain(|_, at| now.saturating_duration_since(*at) < SHUNNED);
        }
        if failed.len() >= MAX_FAILED {
            let oldest = failed.iter().min_by_key(|(_, at)| **at);
            let oldest = oldest.map(|(addr, _)| *addr);
            oldest.map(|addr| failed.remove(&addr));
        }
        failed.insert(addr, now);
    }

    /// A connection to `addr` was made.
    pub(super) fn succeeded(&self, addr: SocketAddr) {
        let mut failed = self.failed.borrow_mut();
        if !failed.is_empty() {
            failed.remove(&addr);
        }
    }

    fn load(&self, addr: SocketAddr) -> usize {
        self.open.borrow().get(&addr).copied().unwrap_or(0)
    }

    fn is_shunned(&self, addr: SocketAddr, now: Instant) -> bool {
        let failed = self.failed.borrow();
        let at = if failed.is_empty() {
            None
        } else {
            failed.get(&addr)
        };
        at.is_some_and(|at| now.saturating_duration_since(*at) < SHUNNED)
    }
}

impl Busy {
    /// The endpoint.
    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut open = self.balance.open.borrow_mut();
        if let Some(count) = open.get_mut(&self.addr) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.addr);
            }
        }
    }
}

/// Two places below `count`, different where they can be. Each half of `random` draws one,
/// by Lemire's multiplication ("Fast Random Integer Generation in an Interval", 2019).
fn draw(count: usize, random: u64) -> (usize, usize) {
    let below = |limit: usize, half: u64| ((half * limit as u64) >> 32) as usize;
    let one = below(count, random & 0xffff_ffff);
    if count < 2 {
        return (one, one);
    }
    let other = below(count - 1, random >> 32);
    (one, other + usize::from(other >= one))
}

/// All places below `count` but `first`, in turn from the one after it.
fn others(count: usize, first: usize) -> impl Iterator<Item = usize> {
    (1..count).map(move |step| (first + step) % count)
}

#[cfg(test)]
mod tests;
