//! Admission of connections whose peer has proved nothing yet. The inbound proxy asks for a
//! slot for each TLS handshake on port 15008, the authority's server for each connection.
//!
//! A new connection is always admitted. When all slots are taken, another one is dropped for
//! it; [`slots`] decides which, so that a flood of one source, or of silent connections,
//! costs no other source its connection.

mod slots;

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use slots::Slots;
pub(crate) use slots::source_prefix;

/// Time for a connection's first byte while more than half of the slots are taken. A client
/// sends its ClientHello with the last packet of the TCP handshake or right after it, and a
/// lost one again after a second (RFC 6298 §2).
pub(crate) const FIRST_BYTE_DEADLINE: Duration = Duration::from_secs(2);

/// The slots of one listener, or of the whole agent. Shared by the threads that serve them;
/// locked for the bookkeeping of one connection alone.
pub(crate) struct Handshakes {
    capacity: usize,
    slots: Mutex<Slots<Arc<Notify>>>,
    dropped: AtomicU64,
}

/// One connection's slot; dropping it frees the slot.
pub(crate) struct Slot {
    of: Arc<Handshakes>,
    id: u64,
    evicted: Arc<Notify>,
    pressed: bool,
}

/// A handshake was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Dropped {
    /// Another connection needed the slot.
    #[error(
        "dropped for another connection: all {0} slots for handshakes were taken, and this one \
         was the oldest silent one or its source had most of them"
    )]
    Evicted(usize),
    /// It was silent for too long while slots were scarce.
    #[error(
        "no byte came within {} s, while more than half of the {} slots for handshakes were \
         taken", FIRST_BYTE_DEADLINE.as_secs(), .0
    )]
    Silent(usize),
}

impl Handshakes {
    /// `capacity` slots, at least one.
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        let capacity = capacity.max(1);
        Arc::new(Self {
            capacity,
            slots: Mutex::new(Slots::new(capacity)),
            dropped: AtomicU64::new(0),
        })
    }

    /// A slot for a connection from `source`. Drops another connection if none is free.
    pub(crate) fn admit(self: &Arc<Self>, source: IpAddr) -> Slot {
        let evicted = Arc::new(Notify::new());
        let mut slots = self.lock();
        let (id, victim) = slots.admit(source, Instant::now(), Arc::clone(&evicted));
        let pressed = slots.len() > self.capacity / 2;
        drop(slots);
        if let Some(victim) = victim {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            victim.notify_one();
        }
        Slot {
            of: Arc::clone(self),
            id,
            evicted,
            pressed,
        }
    }

    /// Slots in all.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Slots taken now.
    pub(crate) fn used(&self) -> usize {
        self.lock().len()
    }

    /// Connections dropped so far, for another one or for their silence.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Slots<Arc<Notify>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// The first byte came.
    pub(crate) fn spoke(&self) {
        self.of.lock().spoke(self.id);
    }

    /// Completes when the slot was given to another connection. May be awaited again.
    pub(crate) async fn evicted(&self) -> Dropped {
        self.evicted.notified().await;
        // For a caller that stopped waiting and asks again.
        self.evicted.notify_one();
        Dropped::Evicted(self.of.capacity)
    }

    /// Completes when the connection's first byte is overdue: never, unless slots were scarce
    /// when it was admitted.
    pub(crate) async fn overdue(&self) -> Dropped {
        if !self.pressed {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(FIRST_BYTE_DEADLINE).await;
        self.of.dropped.fetch_add(1, Ordering::Relaxed);
        Dropped::Silent(self.of.capacity)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.of.lock().leave(self.id);
    }
}

impl fmt::Debug for Handshakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshakes")
            .field("capacity", &self.capacity)
            .field("used", &self.used())
            .field("dropped", &self.dropped())
            .finish()
    }
}

#[cfg(test)]
mod tests;
