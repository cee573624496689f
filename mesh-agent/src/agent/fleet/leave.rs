//! Pods that leave the mesh because their object says so, and everything that leaves it when
//! the agent is uninstalled.

use std::path::Path;

use super::Fleet;
use super::leftovers::EARLIER;
use crate::intercept::{KernelPod, NetnsCookie};
use crate::observe::Reason;
use crate::proxy::Pod;

impl Fleet {
    /// Has an enrolled pod leave the mesh. Its connections go on, unless it is `gone`.
    pub(super) async fn release(&self, uid: &str, gone: bool) {
        let Some(pod) = self.lock().enrolled.remove(uid) else {
            return;
        };
        let is_at = |path: &Path| pod.netns().is_at(path);
        let local = pod.workload().local.clone();
        let gone = gone || !(local.is_some_and(|it| is_at(&it.netns)) || self.runs(&pod));
        if let Err(error) = self.shared.interceptor.release(pod.netns().cookie()) {
            tracing::error!(pod = %uid, %error, "the kernel did not let go of the pod");
        }
        self.enroller.claims.give_up(pod.netns().cookie(), uid);
        if gone {
            self.end(&pod, Reason::PodReleased).await;
        } else {
            pod.release();
            self.workers.forget(&pod, false).await;
        }
        self.tell();
        tracing::info!(pod = %uid, gone, "released");
    }

    /// Ends all that the agent holds for a pod: its listener, its connections and its tunnels.
    pub(super) async fn end(&self, pod: &Pod, reason: Reason) {
        pod.gone();
        let workload = pod.workload();
        // By name: a pod's labels may have changed since a connection was opened.
        self.shared.observer.cut(reason, |connection| {
            let of = connection.pod();
            of.name == workload.name && of.namespace == workload.namespace
        });
        self.workers.forget(pod, true).await;
    }

    /// Has every pod leave the mesh, orphans and those of earlier agents too.
    pub(in crate::agent) async fn release_all(&self) {
        for (uid, _) in self.pods() {
            self.release(&uid, false).await;
        }
        self.release_from_kernel(|_| true);
    }

    /// Has the kernel let go of the pods that this agent has not enrolled and whose network
    /// namespace is gone, so that their addresses and cgroups are free for others.
    pub(super) fn release_dead(&self) {
        self.release_from_kernel(|pod| pod.lookup.as_ref().is_some_and(|link| !link.attached));
    }

    /// Has the kernel let go of the pods that this agent has not enrolled and that
    /// `which` picks.
    fn release_from_kernel(&self, which: impl Fn(&KernelPod) -> bool) {
        for pod in self.others().iter().filter(|pod| which(pod)) {
            let title = self.orphan_at(pod.netns);
            self.release_other(pod.netns, title.as_deref().unwrap_or(EARLIER));
        }
    }

    /// The pods that the kernel knows and this agent has not enrolled.
    pub(super) fn others(&self) -> Vec<KernelPod> {
        let mut kernel = match self.shared.interceptor.kernel_pods() {
            Ok(kernel) => kernel,
            Err(error) => {
                tracing::error!(%error, "cannot read the enrolled pods");
                return Vec::new();
            }
        };
        let pods = self.pods();
        let ours: Vec<_> = pods.iter().map(|(_, pod)| pod.netns().cookie()).collect();
        kernel.retain(|pod| !ours.contains(&pod.netns));
        kernel
    }

    /// Has the kernel let go of a pod that this agent has not enrolled.
    pub(super) fn release_other(&self, netns: NetnsCookie, pod: &str) {
        match self.shared.interceptor.release(netns) {
            Ok(()) => {
                self.forget_orphan(netns);
                tracing::info!(netns = netns.0, pod, "released");
            }
            Err(error) => {
                tracing::error!(netns = netns.0, %error, "the kernel did not let go of a pod");
            }
        }
    }
}
