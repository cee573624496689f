//! The mode of each pod: what a change of it means for the kernel's flags and for
//! the connections that are open.

use std::collections::HashMap;

use super::Fleet;
use crate::model::{MtlsMode, Workload, World};
use crate::observe::{LiveConnection, Reason};
use crate::proxy::{Pod, is_inbound_plaintext};

impl Fleet {
    /// Brings the kernel's flags and the running connections in line with the mode
    /// of each pod and port.
    pub(super) async fn change_mode(&self, before: &World, after: &World) {
        let mut here = HashMap::new();
        for (uid, pod) in self.pods() {
            let workload = pod.workload();
            let now = after.workload(&uid).unwrap_or(&workload);
            let strict = is_strict(after, now);
            if strict != is_strict(before, before.workload(&uid).unwrap_or(&workload)) {
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
            for address in &now.addresses {
                here.insert(*address, now.clone());
            }
        }
        let refused = |connection: &LiveConnection| {
            let to = connection.destination();
            is_inbound_plaintext(connection)
                && here.get(&to.ip()).is_some_and(|workload| {
                    let mode = after.policies().mtls_mode(workload, to.port());
                    mode.mode == MtlsMode::Strict
                })
        };
        let cut = self.shared.observer.cut(Reason::PolicyChanged, refused);
        if cut > 0 {
            tracing::info!(
                connections = cut,
                "plaintext connections cut: their ports are STRICT now"
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

/// Whether the kernel's guard is to take the pod for STRICT.
pub(super) fn is_strict(world: &World, workload: &Workload) -> bool {
    world.policies().strictest_mode(workload).mode == MtlsMode::Strict
}
