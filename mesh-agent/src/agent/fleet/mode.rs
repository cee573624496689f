//! The mesh-wide mode: what a change of it means for the kernel's flags and for
//! the connections that are open.

use super::Fleet;
use crate::model::{MtlsMode, Workload, World};
use crate::observe::Reason;
use crate::proxy::{Pod, is_inbound_plaintext};

/// Whether the kernel's guard is to let no plaintext of this pod pass.
pub(in crate::agent) fn wants_strict(world: &World, _workload: &Workload) -> bool {
    world.mesh().inbound_mode == MtlsMode::Strict
}

impl Fleet {
    /// Brings the kernel's flags and the running connections in line with the
    /// mesh-wide mode.
    pub(super) async fn change_mode(&self, before: &World, after: &World) {
        let (before, mode) = (before.mesh().inbound_mode, after.mesh().inbound_mode);
        if before == mode {
            return;
        }
        let strict = mode == MtlsMode::Strict;
        for (uid, pod) in self.pods() {
            let set = self
                .shared
                .interceptor
                .set_strict(pod.netns().cookie(), strict);
            if let Err(error) = set {
                tracing::error!(pod = %uid, %error, "the kernel did not take the pod's mode");
            }
            if strict {
                self.reset_plaintext(&pod).await;
            }
        }
        if strict {
            let cut = self
                .shared
                .observer
                .cut(Reason::PolicyChanged, is_inbound_plaintext);
            tracing::info!(
                connections = cut,
                "plaintext connections cut: the mesh is STRICT now"
            );
        }
    }

    /// Resets what the pod holds open in plaintext, counts it and logs each.
    pub(super) async fn reset_plaintext(&self, pod: &Pod) {
        let uid = pod.workload().uid.clone();
        match self.enroller.reset_plaintext(pod).await {
            Ok(reset) => {
                self.lock().reset += reset.len() as u64;
                for connection in reset {
                    tracing::warn!(pod = %uid, local = %connection.local, remote = %connection.remote,
                        "plaintext connection reset: it was older than the pod's STRICT mode");
                }
            }
            Err(error) => tracing::error!(pod = %uid, %error,
                "plaintext connections cannot be reset; the guard drops their packets"),
        }
    }
}
