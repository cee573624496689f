//! What came of the cluster's objects, written back to the Kubernetes API: a condition on
//! every policy, and on a pod of this node that could not be enrolled an annotation and
//! an event. The agent makes one [`Writer`] when it is configured by that API, and tells
//! it what is true; when and how it is written is decided here.
//!
//! Policies are the same for all agents, so one of them writes, the holder of a lease. Pods
//! are written by the agent of their node.

mod condition;
mod events;
mod lease;
mod pods;
mod policies;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::model::Problem;

/// Who writes, as the API records it beside every field.
const FIELD_MANAGER: &str = "isthmus";

/// Time to give the lease up, which an API server that answers does in milliseconds. An agent
/// that ends waits for it.
const LIMIT: Duration = Duration::from_secs(1);

/// What is true of the objects, as far as this agent knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Every policy of the cluster.
    pub policies: Vec<PolicyStatus>,
    /// Every pod of this node that is to be in the mesh. What is written about others of
    /// this node's pods is removed.
    pub pods: Vec<PodStatus>,
}

/// What came of one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyStatus {
    /// What it is.
    pub kind: PolicyKind,
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// The `metadata.generation` that was read. Nothing is written about any other; 0
    /// stands for one that is not known, and then nothing is written at all.
    pub generation: i64,
    /// What is wrong with it. Without errors it is in force; warnings are told too.
    pub problems: Vec<Problem>,
}

/// The kinds of policy that have a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyKind {
    /// `security.istio.io/PeerAuthentication`
    PeerAuthentication,
    /// `security.istio.io/AuthorizationPolicy`
    AuthorizationPolicy,
}

/// What came of one pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodStatus {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`: another pod of the same name is not meant.
    pub uid: String,
    /// Why it is not enrolled; `None` if it is.
    pub not_enrolled: Option<String>,
    /// What is wrong with it although it is enrolled.
    pub warning: Option<String>,
}

/// Writes statuses in the background for as long as it lives. To be ended with [`Self::end`]
/// where there is time: after a mere drop other agents wait until its lease runs out.
pub struct Writer {
    latest: watch::Sender<Option<Arc<Snapshot>>>,
    policies: JoinSet<()>,
    pods: JoinSet<()>,
}

impl Writer {
    /// A writer for the pods of `node`, and with the other agents for all policies. The
    /// lease by which they agree is in `namespace`. Writes nothing before the first
    /// [`Self::update`]. To be called in a tokio runtime.
    pub fn new(client: Client, node: &str, namespace: &str) -> Self {
        let latest = watch::Sender::new(None);
        let (mut policies, mut pods) = (JoinSet::new(), JoinSet::new());
        policies.spawn(policies::write(
            client.clone(),
            lease::Lease::new(client.clone(), namespace, node),
            latest.subscribe(),
        ));
        pods.spawn(pods::write(client, node.to_owned(), latest.subscribe()));
        Self {
            latest,
            policies,
            pods,
        }
    }

    /// Writes nothing more, and leaves the policies to another agent. Returns within a second,
    /// whether or not the API server answers.
    pub async fn end(self) {
        let Self {
            latest,
            mut policies,
            pods,
        } = self;
        drop(pods);
        drop(latest);
        let ended = tokio::time::timeout(LIMIT, policies.join_next()).await;
        if ended.is_err() {
            tracing::warn!(
                "the API server does not answer: the policies' statuses wait until this agent's lease runs out"
            );
        }
    }

    /// Tells what is true now, in place of what was told before. Returns at once.
    pub fn update(&self, snapshot: Snapshot) {
        self.latest.send_if_modified(|latest| {
            let new = latest.as_deref() != Some(&snapshot);
            if new {
                *latest = Some(Arc::new(snapshot));
            }
            new
        });
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

/// The latest snapshot, for a task that writes.
type Latest = watch::Receiver<Option<Arc<Snapshot>>>;

#[cfg(test)]
mod tests;
