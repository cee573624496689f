//! Probes of the audit: connections that the agent itself has opened inside a pod, to see
//! them arrive here with the destination that they named. They lead nowhere.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::addr::OriginalDst;
use crate::intercept::NetnsCookie;

/// The probes under way. While there is none, a connection that passes by costs one load.
#[derive(Debug, Default)]
pub struct Probes {
    under_way: AtomicUsize,
    waiting: Mutex<HashMap<(NetnsCookie, SocketAddr), oneshot::Sender<()>>>,
}

/// A probe under way, until it is dropped.
#[derive(Debug)]
pub struct Expected<'a> {
    probes: &'a Probes,
    key: (NetnsCookie, SocketAddr),
    arrived: oneshot::Receiver<()>,
}

impl Probes {
    /// Waits for a connection from the namespace `netns` to `to`, which nobody else may want.
    pub fn expect(&self, netns: NetnsCookie, to: SocketAddr) -> Expected<'_> {
        let (sender, arrived) = oneshot::channel();
        self.lock().insert((netns, to), sender);
        self.under_way.fetch_add(1, Ordering::Release);
        Expected {
            probes: self,
            key: (netns, to),
            arrived,
        }
    }

    /// Whether this connection is a probe, which has arrived now.
    pub(super) fn arrived(&self, netns: NetnsCookie, destination: OriginalDst) -> bool {
        if self.under_way.load(Ordering::Acquire) == 0 {
            return false;
        }
        let waiting = self.lock().remove(&(netns, destination.0));
        // Whoever waited may have given up.
        waiting.is_some_and(|waiting| waiting.send(()).is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(NetnsCookie, SocketAddr), oneshot::Sender<()>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Expected<'_> {
    /// Whether it has arrived by now.
    pub fn has_arrived(&mut self) -> bool {
        self.arrived.try_recv().is_ok()
    }
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.probes.lock().remove(&self.key);
        self.probes.under_way.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_destination_in_the_very_pod_is_the_probe_and_once() {
        let probes = Probes::default();
        let (to, other) = (
            "192.0.2.7:9".parse().unwrap(),
            "192.0.2.7:8".parse().unwrap(),
        );
        let arrived = |netns, to| probes.arrived(NetnsCookie(netns), OriginalDst(to));
        assert!(!arrived(1, to));
        let mut expected = probes.expect(NetnsCookie(1), to);
        assert!(!arrived(1, other) && !arrived(2, to));
        assert!(!expected.has_arrived());
        assert!(arrived(1, to));
        assert!(expected.has_arrived());
        assert!(!arrived(1, to));
        drop(expected);
        drop(probes.expect(NetnsCookie(1), to));
        assert!(!arrived(1, to), "nobody waits any more");
    }
}
