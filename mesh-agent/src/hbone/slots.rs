//! Counts the streams of a tunnel. A stream holds a lease as long as any half
//! of it lives, so the count can neither leak nor be given back twice. The
//! client and the server take leases; the pool waits for them to come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::outflow::Outflow;
use super::window::Flow;

/// The count of one tunnel, and whom to tell when a place becomes free.
#[derive(Debug)]
pub(super) struct Slots {
    used: AtomicUsize,
    /// What the streams have on its way to the peer.
    outflow: Arc<Outflow>,
    /// What the streams received and read.
    pub(super) flow: Flow,
    freed: Arc<Notify>,
    began: Instant,
    /// Milliseconds from `began` to the end of the last stream.
    last_end: AtomicU64,
}

/// One stream's place; dropping it frees the place.
#[derive(Debug)]
pub(super) struct Lease(Arc<Slots>);

impl Slots {
    pub(super) fn new(freed: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicUsize::new(0),
            outflow: Outflow::new(),
            flow: Flow::default(),
            freed,
            began: Instant::now(),
            last_end: AtomicU64::new(0),
        })
    }

    /// A place, if fewer than `limit` are taken.
    pub(super) fn lease(self: &Arc<Self>, limit: usize) -> Option<Arc<Lease>> {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                (used < limit).then_some(used + 1)
            })
            .ok()
            .map(|_| Arc::new(Lease(self.clone())))
    }

    /// Since when there has been no stream; `None` while there is one.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let last_end = Duration::from_millis(self.last_end.load(Ordering::Relaxed));
        (self.used() == 0).then(|| self.began + last_end)
    }

    pub(super) fn outflow(&self) -> &Arc<Outflow> {
        &self.outflow
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Lease {
    pub(super) fn outflow(&self) -> &Arc<Outflow> {
        &self.0.outflow
    }

    pub(super) fn flow(&self) -> &Flow {
        &self.0.flow
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let end = self.0.began.elapsed().as_millis();
        let end = u64::try_from(end).unwrap_or(u64::MAX);
        self.0.last_end.store(end, Ordering::Relaxed);
        self.0.used.fetch_sub(1, Ordering::Relaxed);
        self.0.freed.notify_waiters();
    }
}
