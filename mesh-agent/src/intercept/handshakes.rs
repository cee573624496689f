//! The maps of connections under way: original destinations and clients of handshakes, and
//! the kubelet's connections. The programs remove what they insert; this removes the little
//! that they cannot see the end of, and says how full the maps are.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};

use mesh_common::maps::{
    Endpoint, MAX_CLIENTS, MAX_DESTINATIONS, MAX_PODS, MAX_PROBES, Pod, Probe, Tuple, Usage,
};
use mesh_common::probe::is_stale;

use super::error::{InterceptError, Tried};
use super::{Interceptor, sys};

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// The map's name.
    pub map: &'static str,
    /// Entries.
    pub entries: usize,
    /// Entries that fit.
    pub capacity: usize,
}

impl Interceptor {
    /// Removes entries whose connections ended unseen: those of namespaces that have no pod
    /// at this call and had none at the last, so that the handshakes of a pod that was just
    /// released come to their end; and probes whose pod keeps its end open.
    ///
    /// # Errors
    /// Those of reading and writing the maps; what could not be removed is tried again.
    pub fn sweep_handshakes(&self) -> Result<(), InterceptError> {
        let tried = || "remove entries of connections that ended".to_owned();
        let usage = self.maps.usage.as_fd();
        let mut ownerless = HashSet::new();
        for netns in sys::keys::<u64>(usage, 2 * MAX_PODS).tried(tried)? {
            let pod = sys::lookup::<_, Pod>(self.maps.pods.as_fd(), &netns).tried(tried)?;
            if pod.is_none() {
                ownerless.insert(netns);
            }
        }
        let gone: HashSet<u64> = {
            let mut last = self
                .ownerless
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let gone = ownerless.intersection(&last).copied().collect();
            *last = ownerless;
            gone
        };
        if !gone.is_empty() {
            for (map, limit) in [
                (self.maps.destinations.as_fd(), MAX_DESTINATIONS),
                (self.maps.clients.as_fd(), MAX_CLIENTS),
            ] {
                remove_of(map, limit, &gone).tried(tried)?;
            }
            for netns in &gone {
                sys::delete(usage, netns).tried(tried)?;
            }
        }
        self.sweep_probes().tried(tried)
    }

    fn sweep_probes(&self) -> std::io::Result<()> {
        let (probes, now_ns) = (self.maps.probes.as_fd(), sys::monotonic_ns());
        for tuple in sys::keys::<Tuple>(probes, MAX_PROBES)? {
            let probe = sys::lookup::<_, Probe>(probes, &tuple)?;
            if probe.is_some_and(|probe| is_stale(&probe, now_ns)) {
                sys::delete(probes, &tuple)?;
            }
        }
        Ok(())
    }

    /// How full the maps of connections under way are.
    ///
    /// # Errors
    /// Those of reading the maps.
    pub fn handshakes(&self) -> Result<[Fill; 3], InterceptError> {
        let tried = || "count entries of connections under way".to_owned();
        let usage = self.maps.usage.as_fd();
        let (mut destinations, mut clients) = (0, 0);
        for netns in sys::keys::<u64>(usage, 2 * MAX_PODS).tried(tried)? {
            if let Some(of_pod) = sys::lookup::<_, Usage>(usage, &netns).tried(tried)? {
                destinations += usize::try_from(of_pod.destinations).unwrap_or(0);
                clients += usize::try_from(of_pod.clients).unwrap_or(0);
            }
        }
        let probes = sys::keys::<Tuple>(self.maps.probes.as_fd(), MAX_PROBES).tried(tried)?;
        let fill = |map, entries, capacity| Fill {
            map,
            entries,
            capacity,
        };
        Ok([
            fill("original_destinations", destinations, MAX_DESTINATIONS),
            fill("clients", clients, MAX_CLIENTS),
            fill("probes", probes.len(), MAX_PROBES),
        ])
    }
}

fn remove_of(map: BorrowedFd<'_>, limit: usize, netns: &HashSet<u64>) -> std::io::Result<()> {
    for key in sys::keys::<Endpoint>(map, limit)? {
        if netns.contains(&key.netns_cookie) {
            sys::delete(map, &key)?;
        }
    }
    Ok(())
}
