//! Pods that the kernel knows and this agent has not enrolled: what an earlier agent left there,
//! and orphans whose object may have come back. Each is matched with the configuration by its
//! namespace and its cgroup, never by address or name.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Fleet;
use super::orphans::Orphan;
use crate::intercept::{self, KernelPod};
use crate::model::{LocalPod, Workload, World};
use crate::node;

/// An earlier agent's pod, where its name is not known.
pub(super) const EARLIER: &str = "of an earlier agent";

/// What the configuration says of a pod that the kernel knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    /// It is to be enrolled, and is not yet.
    Wanted,
    /// It is there and not in the mesh.
    Unmeshed,
    /// Nothing.
    Not,
}

impl Fleet {
    /// Takes in what the kernel knows and this agent has not enrolled: releases what has ended or
    /// is named as not in the mesh, and closes what no object describes. While not every pod of
    /// the configuration was found (`all_found`), one that nothing describes may be wanted: it
    /// stays as the earlier agent left it, guarded and without a listener.
    pub(super) fn adopt_leftovers(&self, world: &World, all_found: bool) {
        let others = self.others();
        self.forget_orphans_but(&others);
        if others.is_empty() || self.is_superseded() {
            return;
        }
        let Some(cgroups) = self.find_cgroups(&others) else {
            return;
        };
        for pod in &others {
            let cgroup = cgroups.get(&pod.cgroup_id);
            let empty = || {
                let is_empty =
                    |path: &PathBuf| intercept::is_populated(path, pod.cgroup_id) == Some(false);
                pod.redirected && cgroup.is_none_or(is_empty)
            };
            let known = self.lock().orphans.get(&pod.netns).cloned();
            match self.named(world, pod, cgroup.map(PathBuf::as_path)) {
                Named::Wanted => {}
                Named::Not if !empty() => match known {
                    Some(known) if known.closed.is_some() || !all_found => {}
                    _ => self.adopt(pod, cgroup.cloned(), all_found),
                },
                Named::Not | Named::Unmeshed => {
                    let title = known.map_or_else(|| EARLIER.to_owned(), |it| it.title());
                    self.release_other(pod.netns, &title);
                }
            }
        }
    }

    /// Closes an earlier agent's pod that no object describes.
    fn adopt(&self, pod: &KernelPod, cgroup: Option<PathBuf>, all_found: bool) {
        if !pod.redirected {
            // A link only, of an enrolment or a release that did not come to its end.
            if all_found {
                self.release_other(pod.netns, EARLIER);
            }
            return;
        }
        self.forget_orphan(pod.netns);
        let mut orphan = Orphan::new(pod.netns, pod.cgroup_id, cgroup, None);
        if all_found {
            orphan.closed = self.close(pod.netns, EARLIER);
        }
        self.keep(orphan);
    }

    /// What the configuration says of a pod that an earlier agent enrolled, or this one closed.
    /// It is known by its namespace and its cgroup, never by its address or name.
    fn named(&self, world: &World, pod: &KernelPod, cgroup: Option<&Path>) -> Named {
        let netns_ino = pod
            .lookup
            .as_ref()
            .map_or(0, |link| u64::from(link.netns_ino));
        let is_at = |local: &LocalPod| {
            let inode = |path: &Path| fs::metadata(path).map_or(0, |found| found.ino());
            match inode(&local.netns) {
                // A sandbox that was made again has another namespace and the same cgroup.
                found if found != 0 && netns_ino != 0 => found == netns_ino,
                _ => pod.cgroup_id != 0 && inode(&local.cgroup) == pod.cgroup_id,
            }
        };
        let is_of = |workload: &&Arc<Workload>| {
            let place = workload.local.as_ref().or(workload.unmeshed_at.as_deref());
            match (place, &workload.kube_uid, cgroup) {
                (Some(local), ..) => is_at(local),
                (None, Some(uid), Some(cgroup)) => node::is_cgroup_of(cgroup, uid),
                _ => false,
            }
        };
        let here = world.workloads().filter(|it| *it.node == *self.node);
        for workload in here.filter(is_of) {
            if !workload.meshed && workload.membership_known {
                return Named::Unmeshed;
            }
            // One that is enrolled elsewhere has another namespace by now.
            if workload.meshed && self.pod(&workload.uid).is_none() {
                return Named::Wanted;
            }
        }
        Named::Not
    }

    fn forget_orphans_but(&self, others: &[KernelPod]) {
        for orphan in self.orphans() {
            if !others.iter().any(|pod| pod.netns == orphan.netns) {
                self.forget_orphan(orphan.netns);
            }
        }
    }

    fn find_cgroups(&self, pods: &[KernelPod]) -> Option<HashMap<u64, PathBuf>> {
        let ids = pods.iter().map(|pod| pod.cgroup_id);
        let ids: Vec<_> = ids.filter(|id| *id != 0).collect();
        match self.shared.interceptor.find_cgroups(&ids) {
            Ok(found) => Some(found),
            Err(error) => {
                tracing::error!(%error, "the cgroups of pods that are not enrolled are not found");
                None
            }
        }
    }
}
