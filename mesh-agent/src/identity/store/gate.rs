//! How many requests an authority gets at a time, and which go first: a new pod
//! waits for its first certificate, a renewal has hours. Entered by the store and by
//! the renewals.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Requests that may be under way at once. Our choice: enough to keep an authority
/// across a network busy, few enough to let it breathe when it comes back.
const IN_FLIGHT: usize = 16;

/// Of those, how many may be renewals: when an authority hangs, its renewals hold
/// their places until the deadline, and a new pod still finds one.
const RENEWALS: usize = 12;

/// The way to the authority. Who waits is one per identity at most, so the queues
/// are bounded by the pods.
pub(super) struct Gate(Mutex<State>);

/// Why the authority is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Nobody holds a certificate of the identity yet.
    First,
    /// A successor.
    Renewal,
}

/// A place, given back by dropping it.
pub(super) struct Pass {
    gate: Arc<Gate>,
    purpose: Purpose,
}

#[derive(Default)]
struct State {
    firsts: usize,
    renewals: usize,
    waiting_firsts: VecDeque<oneshot::Sender<Pass>>,
    waiting_renewals: VecDeque<oneshot::Sender<Pass>>,
}

impl Gate {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::default()))
    }

    /// Waits for a place.
    pub(super) async fn enter(self: &Arc<Self>, purpose: Purpose) -> Pass {
        let (called, call) = oneshot::channel();
        self.state().queue(purpose).push_back(called);
        self.call();
        match call.await {
            Ok(pass) => pass,
            // The queue is as old as the gate, which is still there.
            Err(_) => unreachable!("a waiter leaves its queue with a pass only"),
        }
    }

    /// Hands free places out, the first certificates' first.
    fn call(self: &Arc<Self>) {
        loop {
            let next = self.state().next();
            let Some((purpose, waiter)) = next else {
                return;
            };
            let pass = Pass {
                gate: Arc::clone(self),
                purpose,
            };
            // Who went away in this instant gives the place back by dropping it.
            drop(waiter.send(pass));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn queue(&mut self, purpose: Purpose) -> &mut VecDeque<oneshot::Sender<Pass>> {
        match purpose {
            Purpose::First => &mut self.waiting_firsts,
            Purpose::Renewal => &mut self.waiting_renewals,
        }
    }

    /// Takes a place for whoever is to have it.
    fn next(&mut self) -> Option<(Purpose, oneshot::Sender<Pass>)> {
        if self.firsts + self.renewals >= IN_FLIGHT {
            return None;
        }
        if let Some(waiter) = next_waiting(&mut self.waiting_firsts) {
            self.firsts += 1;
            return Some((Purpose::First, waiter));
        }
        if self.renewals >= RENEWALS {
            return None;
        }
        let waiter = next_waiting(&mut self.waiting_renewals)?;
        self.renewals += 1;
        Some((Purpose::Renewal, waiter))
    }

    fn leave(&mut self, purpose: Purpose) {
        match purpose {
            Purpose::First => self.firsts -= 1,
            Purpose::Renewal => self.renewals -= 1,
        }
    }
}

/// The first that still waits.
fn next_waiting(queue: &mut VecDeque<oneshot::Sender<Pass>>) -> Option<oneshot::Sender<Pass>> {
    loop {
        let waiter = queue.pop_front()?;
        if !waiter.is_closed() {
            return Some(waiter);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.state().leave(self.purpose);
        self.gate.call();
    }
}

#[cfg(test)]
mod tests;
