//! Pods that leave the mesh: those that this agent enrolled, and those that an
//! earlier one left in the kernel.

use super::Fleet;
use crate::intercept::KernelPod;
use crate::observe::Reason;

impl Fleet {
    /// Has an enrolled pod leave the mesh. Its connections go on, unless its network
    /// namespace went away.
    pub(super) async fn release(&self, uid: &str) {
        let Some(pod) = self.lock().enrolled.remove(uid) else {
            return;
        };
        let workload = pod.workload();
        let alive = workload
            .local
            .as_ref()
            .is_some_and(|at| pod.netns().is_at(&at.netns));
        if let Err(error) = self.shared.interceptor.release(pod.netns().cookie()) {
            tracing::error!(pod = %uid, %error, "the kernel did not let go of the pod");
        }
        self.enroller.claims.give_up(pod.netns().cookie(), uid);
        if alive {
            pod.release();
        } else {
            pod.gone();
            // By name: a pod's labels may have changed since a connection was opened.
            self.shared.observer.cut(Reason::PodReleased, |connection| {
                let of = connection.pod();
                of.name == workload.name && of.namespace == workload.namespace
            });
        }
        self.workers.forget(&pod, !alive).await;
        self.tell();
        tracing::info!(pod = %uid, alive, "released");
    }

    /// Has every pod leave the mesh, those of earlier agents too.
    pub(in crate::agent) async fn release_all(&self) {
        for (uid, _) in self.pods() {
            self.release(&uid).await;
        }
        self.release_from_kernel(|_| true);
    }

    /// Has the kernel let go of the pods that an earlier agent enrolled and that are
    /// gone, so that their addresses and cgroups are free for others.
    pub(super) fn release_dead(&self) {
        self.release_from_kernel(|pod| pod.lookup.as_ref().is_some_and(|link| !link.attached));
    }

    /// Has the kernel let go of what an earlier agent enrolled and no configuration
    /// names any more. While not every pod of the configuration was found its absence proves
    /// nothing, and a pod that is wanted but cannot be found may be this one: it stays
    /// guarded then, and without a listener its traffic is refused.
    pub(super) fn release_leftovers(&self, all_found: bool) {
        let unknown = self
            .lock()
            .pending
            .values()
            .any(|refused| refused.netns.is_none());
        let wanted: Vec<_> = self
            .lock()
            .pending
            .values()
            .filter_map(|it| it.netns)
            .collect();
        self.release_from_kernel(|pod| {
            let release = all_found && !unknown && !wanted.contains(&pod.netns);
            if !release {
                tracing::warn!(
                    netns = pod.netns.0,
                    all_found,
                    "a pod of an earlier agent is not found in the configuration: it stays refused"
                );
            }
            release
        });
    }

    /// Has the kernel let go of the pods that this agent has not enrolled and that
    /// `which` picks.
    fn release_from_kernel(&self, which: impl Fn(&KernelPod) -> bool) {
        let kernel = match self.shared.interceptor.kernel_pods() {
            Ok(kernel) => kernel,
            Err(error) => return tracing::error!(%error, "cannot read the enrolled pods"),
        };
        let ours: Vec<_> = self
            .pods()
            .iter()
            .map(|(_, pod)| pod.netns().cookie())
            .collect();
        let others = kernel.iter().filter(|pod| !ours.contains(&pod.netns));
        for pod in others.filter(|pod| which(pod)) {
            match self.shared.interceptor.release(pod.netns) {
                Ok(()) => tracing::info!(netns = pod.netns.0, "a pod of an earlier agent released"),
                Err(error) => {
                    tracing::error!(netns = pod.netns.0, %error, "the kernel did not let go of a pod");
                }
            }
        }
    }
}
