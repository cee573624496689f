//! The receive window of a tunnel's streams: small at first, larger while their readers read.
//! Both ends of a tunnel run one beside their connection.
//!
//! HTTP/2 lets one end change the initial window of all streams of a connection (RFC 9113
//! §6.9.2), and the difference applies to those that are open. A stream whose reader takes two
//! windows of data asks for the double. What all streams together may then have in flight is
//! bounded: the room of a tunnel, less what it holds for readers that do not read, is divided
//! by its streams. Near the pod's budget every window is the smallest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::TunnelSettings;
use super::slots::Slots;
use crate::budget::PodBudget;

/// Windows of data that a reader takes before its window grows.
const WINDOWS_READ: u64 = 2;

/// What the streams of one tunnel received and read. Moved by the streams, read by the tunnel.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Bytes that were handed to the relay and not given back.
    held: AtomicU64,
    /// Window in force.
    window: AtomicU64,
    /// Whether a reader has taken [`WINDOWS_READ`] windows since the last change.
    fast: AtomicBool,
}

impl Flow {
    pub(super) fn received(&self, bytes: usize) {
        self.held.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The reader took `bytes`; `run` is what it took since its run began.
    pub(super) fn released(&self, bytes: usize, run: &mut u64) {
        self.held.fetch_sub(bytes as u64, Ordering::Relaxed);
        *run += bytes as u64;
        if *run >= WINDOWS_READ * self.window.load(Ordering::Relaxed) {
            *run = 0;
            self.fast.store(true, Ordering::Relaxed);
        }
    }

    /// A stream ended with bytes that were never given back.
    pub(super) fn abandoned(&self, bytes: usize) {
        self.held.fetch_sub(bytes as u64, Ordering::Relaxed);
    }
}

/// Sizes that a window is chosen by, in bytes.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    smallest: u32,
    largest: u32,
    /// For all streams of the tunnel together.
    room: u64,
}

/// Adjusts one tunnel's windows.
pub(super) struct StreamWindow {
    slots: Arc<Slots>,
    sizes: Sizes,
    current: u32,
    budget: Option<Arc<PodBudget>>,
}

impl StreamWindow {
    pub(super) fn new(slots: Arc<Slots>, settings: &TunnelSettings) -> Self {
        let current = settings.stream_window;
        slots.flow.window.store(current.into(), Ordering::Relaxed);
        Self {
            slots,
            sizes: Sizes {
                smallest: settings.smallest_window.min(current),
                largest: settings.largest_window.max(current),
                room: settings.tunnel_room,
            },
            current,
            budget: settings.budget.clone(),
        }
    }

    /// Calls `change` with the window that the streams should have, if it is another than
    /// now. When that fails, as it does until the peer acknowledges the last change, the next
    /// call tries again.
    pub(super) fn adjust<E>(&mut self, change: impl FnOnce(u32) -> Result<(), E>) {
        let flow = &self.slots.flow;
        let wanted = wanted(
            self.sizes,
            self.current,
            self.slots.used(),
            flow.held.load(Ordering::Relaxed),
            flow.fast.load(Ordering::Relaxed),
            self.budget.as_deref().is_some_and(PodBudget::is_pressed),
        );
        if wanted != self.current && change(wanted).is_ok() {
            self.current = wanted;
            flow.window.store(wanted.into(), Ordering::Relaxed);
        } else if wanted != self.current {
            return;
        }
        flow.fast.store(false, Ordering::Relaxed);
    }
}

/// The window for `streams` streams whose readers have `held` bytes yet to take. `fast` tells
/// that one of them reads quickly, `pressed` that the pod is near its budget.
fn wanted(sizes: Sizes, current: u32, streams: usize, held: u64, fast: bool, pressed: bool) -> u32 {
    if pressed {
        return sizes.smallest;
    }
    let each = sizes.room.saturating_sub(held) / (streams as u64).max(1);
    let each = u32::try_from(each).unwrap_or(u32::MAX);
    // A power of two, so that not every stream that comes or goes changes it.
    let most = 1 << each.max(1).ilog2();
    let most = most.clamp(sizes.smallest, sizes.largest);
    match fast {
        true => current.saturating_mul(2).min(most),
        false => current.min(most),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u32 = 1 << 10;
    const SIZES: Sizes = Sizes {
        smallest: 64 * KIB,
        largest: 1024 * KIB,
        room: 16 << 20,
    };

    #[test]
    fn window_grows_while_a_reader_reads_up_to_the_largest() {
        let mut current = 256 * KIB;
        assert_eq!(wanted(SIZES, current, 1, 0, false, false), 256 * KIB);
        for expected in [512, 1024, 1024] {
            current = wanted(SIZES, current, 1, 0, true, false);
            assert_eq!(current, expected * KIB);
        }
    }

    #[test]
    fn windows_of_many_streams_share_the_room_of_the_tunnel() {
        for streams in [1_usize, 16, 17, 33, 64, 100, 128] {
            let each = wanted(SIZES, 1024 * KIB, streams, 0, true, false);
            let all = u64::from(each) * streams as u64;
            assert!(all <= SIZES.room, "{streams} streams of {each}");
            assert!(each >= SIZES.smallest);
        }
        assert_eq!(wanted(SIZES, 256 * KIB, 1000, 0, true, false), 64 * KIB);
    }

    #[test]
    fn window_shrinks_for_what_stalled_readers_hold() {
        let held = 12 << 20;
        assert_eq!(wanted(SIZES, 1024 * KIB, 8, held, true, false), 512 * KIB);
        assert_eq!(
            wanted(SIZES, 1024 * KIB, 8, 16 << 20, true, false),
            64 * KIB
        );
    }

    #[test]
    fn window_is_the_smallest_near_the_budget() {
        assert_eq!(wanted(SIZES, 1024 * KIB, 1, 0, true, true), 64 * KIB);
    }

    #[test]
    fn flow_reports_a_reader_that_took_two_windows() {
        let flow = Flow::default();
        flow.window.store(100, Ordering::Relaxed);
        let mut run = 0;
        flow.received(200);
        flow.released(150, &mut run);
        assert!(!flow.fast.load(Ordering::Relaxed));
        flow.released(50, &mut run);
        assert!(flow.fast.load(Ordering::Relaxed));
        assert_eq!(flow.held.load(Ordering::Relaxed), 0);
    }
}
