//! Whether the mesh's own namespace is being removed, as the API server has said until now. Kept
//! by [`super::Asks`] for as long as the agent runs, since at its end it may be too late to ask:
//! whoever deletes the namespace, or everything at once, deletes the agents' DaemonSet after their
//! pods, and the permission to ask before either.

use std::pin::pin;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::install;

/// Followed until dropped.
#[derive(Debug)]
pub(super) struct Removal {
    begun: watch::Receiver<bool>,
    _task: JoinSet<()>,
}

impl Removal {
    /// Follows the namespace.
    pub(super) fn follow(client: Client) -> Self {
        let (tell, begun) = watch::channel(false);
        let mut task = JoinSet::new();
        task.spawn(follow(client, tell));
        Self { begun, _task: task }
    }

    /// Whether the namespace has been marked for removal. There is no way back from that, so
    /// what was heard once stays true.
    pub(super) fn has_begun(&self) -> bool {
        *self.begun.borrow()
    }

    #[cfg(test)]
    pub(super) async fn begins(&mut self) {
        self.begun.wait_for(|begun| *begun).await.unwrap();
    }
}

/// Returns once the namespace is being removed. A watch that fails is tried again, with backoff.
async fn follow(client: Client, tell: watch::Sender<bool>) {
    let api: Api<PartialObjectMeta<Namespace>> = Api::all(client);
    let mut states = pin!(watch_object(api, install::NAMESPACE).default_backoff());
    while let Some(state) = states.next().await {
        // That it is not there proves nothing: its mark comes before it goes.
        let namespace = state.ok().flatten();
        if namespace.is_some_and(|it| it.metadata.deletion_timestamp.is_some()) {
            tell.send_replace(true);
            return;
        }
    }
}
