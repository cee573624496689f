//! Closing a pod: its object is gone and its processes are not. The guard and the redirection
//! stay, without an address to redirect to and without a listener, so that nothing of TCP leaves
//! or enters the pod; its addresses are free for another pod. Called by `agent`, which releases
//! the pod when [`Interceptor::is_netns_gone`] or when its cgroup is empty.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::PathBuf;

use mesh_common::ip::Ip;
use mesh_common::maps::{CGROUP_STRICT, Cgroup, MAX_DEPTH, POD_HAS_V4, POD_HAS_V6, Pod};

use super::error::{InterceptError, Tried};
use super::{Fault, Interceptor, NetnsCookie, cgroup, enrol, ip_of, links, sys};

/// A closed pod, as the kernel must have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedPod {
    /// Its network namespace.
    pub netns: NetnsCookie,
    /// Id of its cgroup.
    pub cgroup_id: u64,
    /// Levels of that cgroup below the pods cgroup.
    pub depth: u32,
}

impl Interceptor {
    /// Closes an enrolled pod: new connections of it are refused, those to it are reset, and the
    /// guard drops the packets of those that go around the agent. `None` when the kernel has no
    /// entry of it.
    ///
    /// # Errors
    /// The first step that failed; closing it can be tried again.
    pub fn close(&self, netns: NetnsCookie) -> Result<Option<ClosedPod>, InterceptError> {
        let mut index = self.index();
        let Some(pod) = self.pod(netns)? else {
            return Ok(None);
        };
        let closed = ClosedPod {
            netns,
            cgroup_id: pod.cgroup_id,
            depth: pod.depth,
        };
        self.write_closed(&closed)?;
        for address in enrol::own_addresses(&index, netns, &pod) {
            sys::delete(self.maps.listeners.as_fd(), &ip_of(address))
                .tried(|| format!("empty the slot of {address}"))?;
        }
        index.set(netns, &[]);
        Ok(Some(closed))
    }

    /// Puts back what [`Interceptor::closed_faults`] found missing.
    pub(super) fn close_again(&self, closed: &ClosedPod) -> Result<(), InterceptError> {
        let _index = self.index();
        self.add_depth(closed.depth)?;
        self.write_closed(closed)
    }

    /// What the kernel has of a closed pod that is not as closing left it.
    ///
    /// # Errors
    /// Those of reading the maps.
    pub fn closed_faults(&self, closed: &ClosedPod) -> Result<Vec<Fault>, InterceptError> {
        let mut faults = Vec::new();
        match self.pod(closed.netns)? {
            None => faults.push(Fault::NotRedirected),
            Some(pod) if pod.cgroup_id != closed.cgroup_id => {
                faults.push(Fault::RedirectedOtherwise("cgroup"));
            }
            Some(pod) if pod.flags & (POD_HAS_V4 | POD_HAS_V6) != 0 => {
                faults.push(Fault::RedirectedOtherwise("address"));
            }
            Some(_) => {}
        }
        match self.guard_entry(closed.cgroup_id)? {
            None => faults.push(Fault::NotGuarded),
            Some(guard) if self.is_of_another(&guard, closed.netns)? => {}
            Some(guard) if guard.flags & CGROUP_STRICT == 0 => {
                faults.push(Fault::Mode { strict: true });
            }
            Some(_) => {}
        }
        Ok(faults)
    }

    /// Whether the pod's network namespace no longer exists. False while that is not known.
    pub fn is_netns_gone(&self, netns: NetnsCookie) -> bool {
        let held = self.links();
        if let Some(link) = held.lookups.get(&netns) {
            return sys::link_info(link.as_fd()).is_ok_and(|info| info.netns_ino == 0);
        }
        drop(held);
        let pin = links::lookup_pin(&self.options.pin_dir, netns);
        let link = sys::open_pin(&pin).ok().flatten();
        link.and_then(|link| sys::link_info(link.as_fd()).ok())
            .is_some_and(|info| info.netns_ino == 0)
    }

    /// The id of the cgroup with which a pod is enrolled.
    pub fn cgroup_of(&self, netns: NetnsCookie) -> Option<u64> {
        let pod = self.pod(netns).ok().flatten()?;
        Some(pod.cgroup_id)
    }

    /// The directory of each of these cgroups that there is, by id. Walks the tree below the pods
    /// cgroup: opening one by its id would need `CAP_DAC_READ_SEARCH`.
    ///
    /// # Errors
    /// When a directory cannot be listed: then an absent cgroup is not known to be gone.
    pub fn find_cgroups(&self, ids: &[u64]) -> Result<HashMap<u64, PathBuf>, InterceptError> {
        let root = &self.options.pods_cgroup;
        cgroup::find(root, ids, MAX_DEPTH).tried(|| format!("search {}", root.display()))
    }

    /// Guard first, so that a connection around the agent is never possible.
    fn write_closed(&self, closed: &ClosedPod) -> Result<(), InterceptError> {
        let netns = closed.netns;
        self.set_device_mode(netns, true)?;
        let guard = self.guard_entry(closed.cgroup_id)?;
        // A sandbox that was made again shares the pod's cgroup, which is its to guard then.
        let shared = guard.map(|guard| self.is_of_another(&guard, netns));
        if !shared.transpose()?.unwrap_or(false) {
            self.guard(netns, closed.cgroup_id, true)?;
        }
        let entry = Pod {
            cgroup_id: closed.cgroup_id,
            depth: closed.depth,
            flags: 0,
            ipv4: Ip::UNSPECIFIED,
            ipv6: Ip::UNSPECIFIED,
            port: 0,
            reserved: [0; 6],
        };
        sys::update(self.maps.pods.as_fd(), &netns.0, &entry)
            .tried(|| format!("close the pod with netns cookie {netns}"))
    }

    pub(super) fn guard_entry(&self, cgroup_id: u64) -> Result<Option<Cgroup>, InterceptError> {
        sys::lookup(self.maps.cgroups.as_fd(), &cgroup_id)
            .tried(|| "read the map of cgroups".to_owned())
    }

    /// Whether the cgroup is guarded for another pod that is enrolled with it.
    fn is_of_another(&self, guard: &Cgroup, netns: NetnsCookie) -> Result<bool, InterceptError> {
        let owner = NetnsCookie(guard.netns_cookie);
        Ok(owner != netns && self.pod(owner)?.is_some())
    }
}

/// Whether an entry is that of a closed pod.
pub(super) fn is_closed(pod: &Pod) -> bool {
    pod.flags & (POD_HAS_V4 | POD_HAS_V6) == 0
}
