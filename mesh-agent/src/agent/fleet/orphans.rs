//! Pods whose object is gone and whose processes are not: a force-deleted pod of a node whose
//! kubelet is down, a static pod without its mirror, a file that was taken out of the folder, what
//! an earlier agent enrolled and no configuration names. Such a pod is not out of the mesh: its
//! identity is withdrawn, its connections are cut, it is closed in both directions in every mode,
//! and the guard stays until its cgroup is empty or its network namespace gone.
//!
//! Its connections are cut at once and not left to end: a pod that terminates in order loses its
//! object only after its containers have ended, so that cutting harms none of these, and what
//! still runs without an object must not talk on under an identity that nobody vouches for.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use nix::sys::inotify::{AddWatchFlags, WatchDescriptor};

use super::Fleet;
use crate::config::Problem;
use crate::intercept::{self, ClosedPod, NetnsCookie};
use crate::model::{Origin, Workload};
use crate::observe::Reason;
use crate::proxy::Pod;

/// What is said of an orphan.
pub(in crate::agent) const STATE: &str = "its object is gone, or says that it has ended, and its processes run: it is guarded and closed";

/// One such pod.
#[derive(Clone, Debug)]
pub(in crate::agent) struct Orphan {
    pub(in crate::agent) netns: NetnsCookie,
    /// As its object last described it; `None` of a pod that an earlier agent enrolled.
    pub(in crate::agent) workload: Option<Arc<Workload>>,
    /// As the kernel must have it. `None` of an earlier agent's pod that may be one of the
    /// configuration's: it is guarded, has no listener, and is left as it is.
    pub(in crate::agent) closed: Option<ClosedPod>,
    pub(in crate::agent) since: Instant,
    cgroup_id: u64,
    /// Where its cgroup was found.
    cgroup: Option<PathBuf>,
    watch: Option<WatchDescriptor>,
}

impl Orphan {
    pub(super) fn new(
        netns: NetnsCookie,
        cgroup_id: u64,
        cgroup: Option<PathBuf>,
        workload: Option<Arc<Workload>>,
    ) -> Self {
        Self {
            netns,
            workload,
            closed: None,
            since: Instant::now(),
            cgroup_id,
            cgroup,
            watch: None,
        }
    }

    /// `namespace/name`, or what an earlier agent's pod is known by.
    pub(in crate::agent) fn title(&self) -> String {
        match &self.workload {
            Some(workload) => workload.uid.to_string(),
            None => format!("{}/{}", self.namespace(), self.name()),
        }
    }

    pub(in crate::agent) fn namespace(&self) -> &str {
        self.workload.as_ref().map_or("?", |it| &it.namespace)
    }

    /// The pod's name, or that of its cgroup.
    pub(in crate::agent) fn name(&self) -> String {
        if let Some(workload) = &self.workload {
            return workload.name.to_string();
        }
        let cgroup = self.cgroup.as_deref().and_then(Path::file_name);
        cgroup.map_or_else(
            || format!("netns-{}", self.netns),
            |name| name.to_string_lossy().into_owned(),
        )
    }

    pub(super) fn problem(&self) -> Problem {
        let api = Origin::api();
        let origin = self.workload.as_ref().map_or(&api, |it| &it.origin);
        let cgroup = self.cgroup.as_ref().map_or_else(
            || format!("with id {}", self.cgroup_id),
            |path| path.display().to_string(),
        );
        let cure = format!(
            "end what runs in its cgroup {cgroup}, or describe the pod again; a pod leaves the \
             mesh by the label isthmus.dev/mesh: disabled, of its own or of its namespace"
        );
        Problem::new(origin, format!("Pod {}", self.title()), "", STATE, cure).into_warning()
    }
}

impl Fleet {
    /// Closes an enrolled pod that no object describes any more.
    pub(super) async fn orphan(&self, uid: &str) {
        let Some(pod) = self.lock().enrolled.remove(uid) else {
            return;
        };
        let workload = pod.workload();
        let netns = pod.netns().cookie();
        let closed = self.close(netns, uid);
        self.enroller.claims.give_up(netns, uid);
        // While its namespace is still open here.
        if self.runs(&pod) {
            self.reset_around(&pod).await;
        }
        let cgroup = workload.local.as_ref().map(|local| local.cgroup.clone());
        if let Some(closed) = closed {
            let mut orphan = Orphan::new(netns, closed.cgroup_id, cgroup, Some(workload));
            orphan.closed = Some(closed);
            self.keep(orphan);
        }
        self.end(&pod, Reason::PodDeleted).await;
        self.tell();
    }

    /// Resets the connections of the pod that go around the agent.
    async fn reset_around(&self, pod: &Pod) {
        let uid = &pod.workload().uid;
        match self.enroller.reset_plaintext(pod).await {
            Ok(reset) => {
                for it in reset {
                    tracing::warn!(pod = %uid, local = %it.local, remote = %it.remote,
                        reason = Reason::PodDeleted.code(), "plaintext connection reset");
                }
            }
            Err(error) => tracing::error!(pod = %uid, %error,
                "plaintext connections cannot be reset; the guard drops their packets"),
        }
    }

    /// Closes a pod in the kernel; a failure is repaired by the audit.
    pub(super) fn close(&self, netns: NetnsCookie, pod: &str) -> Option<ClosedPod> {
        match self.shared.interceptor.close(netns) {
            Ok(closed) => closed,
            Err(error) => {
                tracing::error!(pod, %error, "the pod could not be closed; it stays guarded");
                None
            }
        }
    }

    /// Keeps an orphan until its processes have ended, if they have not.
    pub(super) fn keep(&self, mut orphan: Orphan) {
        // Before the look, so that an end in between is no end unseen.
        orphan.watch = orphan
            .cgroup
            .as_deref()
            .and_then(|cgroup| self.watch(cgroup));
        // A pod that ended in order has left nothing behind.
        if self.has_ended(&orphan) {
            self.unwatch(&orphan);
            return self.release_other(orphan.netns, &orphan.title());
        }
        tracing::warn!(pod = orphan.title(), netns = orphan.netns.0, "{STATE}");
        self.lock().orphans.insert(orphan.netns, orphan);
    }

    /// Releases the orphans whose processes have ended.
    pub(in crate::agent) fn look_after_orphans(&self) {
        let mut ended = self.orphans();
        ended.retain(|orphan| self.has_ended(orphan));
        if ended.is_empty() || self.is_superseded() {
            return;
        }
        for orphan in ended {
            self.release_other(orphan.netns, &orphan.title());
        }
        self.tell();
    }

    /// Waits until a cgroup of an orphan may have become empty.
    pub(in crate::agent) async fn orphans_changed(&self) {
        match &self.events {
            Some(events) => {
                events.wait(None).await;
                events.take();
            }
            None => std::future::pending().await,
        }
    }

    /// The orphans, in the order of their namespaces' cookies.
    pub(in crate::agent) fn orphans(&self) -> Vec<Orphan> {
        self.lock().orphans.values().cloned().collect()
    }

    /// Whether the pod with this namespace is an orphan, and which it was.
    pub(in crate::agent) fn orphan_at(&self, netns: NetnsCookie) -> Option<String> {
        self.lock().orphans.get(&netns).map(Orphan::title)
    }

    /// The orphan is none any more: it was enrolled again, or released.
    pub(super) fn forget_orphan(&self, netns: NetnsCookie) -> Option<Orphan> {
        let orphan = self.lock().orphans.remove(&netns)?;
        self.unwatch(&orphan);
        Some(orphan)
    }

    /// Whether nothing runs of it any more. False while that is not known.
    fn has_ended(&self, orphan: &Orphan) -> bool {
        if self.shared.interceptor.is_netns_gone(orphan.netns) {
            return true;
        }
        if let Some(path) = &orphan.cgroup
            && intercept::is_populated(path, orphan.cgroup_id) != Some(false)
        {
            return false;
        }
        // Not at its path: the cgroup may have been moved, or another made in its place.
        let found = self.shared.interceptor.find_cgroups(&[orphan.cgroup_id]);
        found.is_ok_and(|found| {
            let path = found.get(&orphan.cgroup_id);
            path.is_none_or(|path| intercept::is_populated(path, orphan.cgroup_id) == Some(false))
        })
    }

    fn watch(&self, cgroup: &Path) -> Option<WatchDescriptor> {
        let file = cgroup.join("cgroup.events");
        let watch = self.events.as_ref()?.add(&file, AddWatchFlags::IN_MODIFY);
        // The ticks of the main loop look all the same.
        watch
            .inspect_err(|error| tracing::debug!(%error, file = %file.display(), "not watched"))
            .ok()
    }

    fn unwatch(&self, orphan: &Orphan) {
        let Some((events, watch)) = self.events.as_ref().zip(orphan.watch) else {
            return;
        };
        // Two namespaces may have one cgroup, and then one watch.
        let shared = self
            .lock()
            .orphans
            .values()
            .any(|it| it.watch == Some(watch));
        if !shared {
            events.remove(watch);
        }
    }

    /// A pod whose namespace is another by now, under the same path or a new one: what is in the
    /// old one is not the pod any more. To be called before the pod is enrolled.
    pub(super) async fn leave_other_namespace(&self, wanted: &Workload) {
        let Some(local) = &wanted.local else { return };
        let enrolled: Option<Arc<Pod>> = self.pod(&wanted.uid);
        let is_other = |pod: &Arc<Pod>| local.netns.exists() && !pod.netns().is_at(&local.netns);
        if enrolled.as_ref().is_some_and(is_other) {
            tracing::info!(pod = %wanted.uid, netns = %local.netns.display(),
                "the pod has another network namespace");
            self.orphan(&wanted.uid).await;
        }
    }
}
