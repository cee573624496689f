//! Which identities run on which node, as the watched configuration folder says.
//! Owned by [`super::FolderAuthorizer`].

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::config::{ConfigError, FolderSource};
use crate::identity::SpiffeId;
use crate::model::World;

type ByNode = HashMap<Arc<str>, HashSet<SpiffeId>>;

/// The placement of all pods, kept up to date until this is dropped.
pub(super) struct Placements {
    current: watch::Receiver<ByNode>,
    follower: AbortHandle,
}

impl Placements {
    /// Follows the folder `dir`. Before its first reading no pod is anywhere.
    pub(super) fn follow(dir: &Path) -> Result<Self, ConfigError> {
        // The node's name decides only which pods are local, which nobody asks here.
        let mut source = FolderSource::open(dir, "")?;
        let (tell, current) = watch::channel(ByNode::new());
        let follower = tokio::spawn(async move {
            loop {
                let loaded = source.changed().await;
                for problem in &loaded.problems {
                    tracing::warn!(%problem, "problem in the configuration");
                }
                tell.send_replace(by_node(&loaded.world));
            }
        });
        Ok(Self {
            current,
            follower: follower.abort_handle(),
        })
    }

    /// Completes as soon as a pod with the identity `id` is on `node`.
    pub(super) async fn wait_for(&self, node: &str, id: &SpiffeId) {
        let mut current = self.current.clone();
        let placed = |all: &ByNode| all.get(node).is_some_and(|ids| ids.contains(id));
        if current.wait_for(placed).await.is_err() {
            // The follower is gone, at shutdown: nothing will be placed any more.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Placements {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

fn by_node(world: &World) -> ByNode {
    let mut all = ByNode::new();
    for pod in world.workloads().filter(|pod| !pod.node.is_empty()) {
        let ids = all.entry(Arc::clone(&pod.node)).or_default();
        ids.insert(pod.identity.clone());
    }
    all
}
