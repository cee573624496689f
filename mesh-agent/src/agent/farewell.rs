//! What becomes of the node when the agent is told to stop. Its pods stay guarded and closed,
//! since another agent mostly follows; but when the agents' DaemonSet is being removed, none
//! does, and the last agent takes the node out of the mesh. The agent asks and acts in
//! [`super::run`]; `mesh-agent clean` does the same for a node whose agent is gone.
//!
//! In this order: the CNI plugin leaves the chain, so that pods start without an agent; the
//! pods are released, whose new connections then go directly; what runs is drained; the
//! programs leave the kernel. An agent that another has superseded does none of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::{Api, Client, Error};

use super::Options;
use super::fleet::Fleet;
use crate::intercept::Interceptor;
use crate::node::chain::{self, Keeper};
use crate::{ca, install};

/// Time for the API server to say whether the DaemonSet is there. It is taken from what the
/// kubelet gives the agent to end, beside the time to drain.
const LIMIT: Duration = Duration::from_secs(3);

/// Whether the node leaves the mesh with its agent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    /// No agent will follow. With what shows it.
    Uninstalled(&'static str),
    /// One may. With what says so.
    Stays(String),
}

/// Asks the API server. Whatever it does not say clearly leaves the pods guarded.
pub(super) async fn decide(client: &Client) -> Farewell {
    let api: Api<DaemonSet> = Api::namespaced(client.clone(), install::NAMESPACE);
    let asked = tokio::time::timeout(LIMIT, api.get_metadata(install::AGENT)).await;
    match asked {
        Ok(Ok(found)) if found.metadata.deletion_timestamp.is_some() => {
            Farewell::Uninstalled("the agents' DaemonSet is being removed")
        }
        Ok(Ok(_)) => Farewell::Stays("the agents' DaemonSet is there".to_owned()),
        // A server that does not know the kind says 404 too, for another reason.
        Ok(Err(Error::Api(status))) if status.code == 404 && status.reason == "NotFound" => {
            Farewell::Uninstalled("the agents' DaemonSet is gone")
        }
        Ok(Err(error)) => Farewell::Stays(format!(
            "whether the agents' DaemonSet is there cannot be asked: {}",
            install::said(&error)
        )),
        Err(_) => Farewell::Stays(format!(
            "whether the agents' DaemonSet is there was not answered within {} s",
            LIMIT.as_secs()
        )),
    }
}

/// The node that is about to leave the mesh.
pub(super) struct Leaving {
    interceptor: Arc<Interceptor>,
    place: Option<chain::Place>,
    trust: Option<PathBuf>,
}

/// Says what becomes of the node, and gives it where it is to leave. `client` is `None` of an
/// agent that no DaemonSet runs.
pub(super) async fn say(
    client: Option<&Client>,
    options: &Options,
    interceptor: &Arc<Interceptor>,
) -> Option<Leaving> {
    let why = match client {
        None => "nothing tells that no agent follows".to_owned(),
        Some(client) => match decide(client).await {
            Farewell::Stays(why) => why,
            Farewell::Uninstalled(why) => match interceptor.is_superseded() {
                Ok(false) => {
                    tracing::info!(why, "the node leaves the mesh");
                    return Some(Leaving::new(options, interceptor));
                }
                Ok(true) => "another agent has taken them over".to_owned(),
                Err(error) => {
                    format!("it cannot be told whether another agent has them: {error}")
                }
            },
        },
    };
    tracing::info!(
        why,
        "the pods stay closed until an agent is back; `mesh-agent clean` opens them"
    );
    None
}

impl Leaving {
    fn new(options: &Options, interceptor: &Arc<Interceptor>) -> Self {
        let place = options.chain.as_ref().map(|(place, _)| place.clone());
        let trust = match options.authority {
            super::Authority::Remote(_) => Some(options.state_dir.clone()),
            // An authority's keys are not the agent's to throw away.
            super::Authority::Embedded => None,
        };
        Self {
            interceptor: Arc::clone(interceptor),
            place,
            trust,
        }
    }

    /// Takes the plugin out of the chain, then releases every pod: what they open from here
    /// on goes directly.
    pub(super) async fn open_pods(&self, keeper: Option<Arc<Keeper>>, fleet: &Fleet) {
        self.unchain(keeper).await;
        fleet.release_all().await;
    }

    /// Takes the plugin out of the chain, for good: the keeper puts nothing back.
    pub(super) async fn unchain(&self, keeper: Option<Arc<Keeper>>) {
        let place = self.place.clone();
        let removed = tokio::task::spawn_blocking(move || {
            if let Some(keeper) = keeper {
                keeper.retire();
            }
            place.map_or_else(|| Ok(Vec::new()), |place| chain::remove(&place))
        });
        match removed.await {
            Ok(Ok(changed)) => {
                tracing::info!(?changed, "the CNI plugin is out of the chain");
            }
            Ok(Err(error)) => tracing::error!(%error,
                "the CNI plugin stays in the chain: pods cannot start until it is taken out; \
                 see `mesh-agent clean`"),
            Err(error) => tracing::error!(%error, "taking the CNI plugin out failed"),
        }
    }

    /// Takes the programs out of the kernel, once nothing of this agent needs them, and
    /// removes what it has saved.
    pub(super) async fn clear(self) {
        let cleared = tokio::task::spawn_blocking(move || {
            match self.interceptor.remove() {
                Ok(true) => tracing::info!("the programs are out of the kernel"),
                // It may have come while this one drained.
                Ok(false) => {
                    return tracing::warn!("another agent has taken the node over: it stays");
                }
                Err(error) => tracing::error!(%error,
                    "the programs cannot be taken out of the kernel; see `mesh-agent clean`"),
            }
            if let Some(dir) = &self.trust {
                forget_trust(dir);
            }
        });
        if let Err(error) = cleared.await {
            tracing::error!(%error, "clearing the node failed");
        }
    }
}

fn forget_trust(state_dir: &Path) {
    if let Err(error) = ca::client::forget(state_dir) {
        tracing::warn!(%error, dir = %state_dir.display(), "what was saved of trust cannot be removed");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kubernetes::testing::{FakeApi, Reply};

    const PATH: &str = "/apis/apps/v1/namespaces/isthmus-system/daemonsets/isthmus-agent";

    /// What is decided where the server answers so.
    async fn decided(reply: impl Fn() -> Reply + Send + Sync + 'static) -> Farewell {
        let api = FakeApi::new(move |asked| {
            assert_eq!((asked.method.as_str(), asked.path.as_str()), ("GET", PATH));
            reply()
        });
        decide(&api.client()).await
    }

    fn daemon_set(deleted: &Value) -> Value {
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": {"name": "isthmus-agent", "deletionTimestamp": deleted}})
    }

    #[tokio::test]
    async fn the_node_leaves_with_the_daemon_set_alone() {
        let there = decided(|| Reply::Json(daemon_set(&Value::Null))).await;
        assert!(matches!(there, Farewell::Stays(_)), "{there:?}");
        let going = decided(|| Reply::Json(daemon_set(&json!("2026-01-01T00:00:00Z")))).await;
        assert!(matches!(going, Farewell::Uninstalled(_)), "{going:?}");
        let gone = decided(|| Reply::Fail(404, "NotFound")).await;
        assert!(matches!(gone, Farewell::Uninstalled(_)), "{gone:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_asked_leaves_the_pods_guarded() {
        // The last: a server, or what stands in its place, that does not know the kind.
        for (code, reason) in [
            (401, "Unauthorized"),
            (403, "Forbidden"),
            (500, "InternalError"),
            (404, ""),
        ] {
            let decided = decided(move || Reply::Fail(code, reason)).await;
            let Farewell::Stays(why) = decided else {
                panic!("{code}: {decided:?}")
            };
            assert!(why.contains("cannot be asked"), "{why}");
        }
        let silent = decided(|| Reply::Never).await;
        let Farewell::Stays(why) = silent else {
            panic!("{silent:?}")
        };
        assert!(why.contains("within 3 s"), "{why}");
    }
}
