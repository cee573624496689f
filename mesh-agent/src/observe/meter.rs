//! The byte counters of one connection. The relay adds to them; the observer
//! reads them for the access log, the live table and the metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of application data carried so far, seen from the pod's application.
/// Both counters only grow. They count payload: neither TLS nor HTTP/2 framing.
#[derive(Debug, Default)]
pub struct Meter {
    /// Bytes from the application to its peer.
    pub sent: AtomicU64,
    /// Bytes from the peer to the application.
    pub received: AtomicU64,
}

impl Meter {
    /// Adds `bytes` that the application sent to its peer.
    pub fn add_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds `bytes` that the peer sent to the application.
    pub fn add_received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The two counters at this moment.
    pub fn totals(&self) -> Totals {
        Totals {
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
        }
    }
}

/// A reading of a [`Meter`], in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes from the application to its peer.
    pub sent: u64,
    /// Bytes from the peer to the application.
    pub received: u64,
}
