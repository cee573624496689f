//! What becomes of the node when the agent is told to stop. Its pods stay guarded and closed,
//! since another agent mostly follows; but when the agents' DaemonSet is being removed, none
//! does, and the last agent takes the node out of the mesh. The agent asks and acts in
//! [`super::run`]; `mesh-agent clean` does the same for a node whose agent is gone.
//!
//! In this order: the CNI plugin leaves the chain, so that pods start without an agent; the
//! pods are released, whose new connections then go directly; what runs is drained; the
//! programs leave the kernel. An agent that another has superseded does none of it.

mod removal;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::{Api, Client, Error};

use super::Options;
use super::fleet::Fleet;
use crate::intercept::Interceptor;
use crate::node::chain::{self, Keeper};
use crate::{admin, ca, install};
use removal::Removal;

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

/// Who knows whether an agent follows.
pub(super) struct Asks {
    client: Client,
    removal: Removal,
}

impl Asks {
    /// For an agent that a DaemonSet runs; no other is uninstalled with it. To be called early, for
    /// what happens until the end is heard as it happens.
    pub(super) fn open(client: Option<&Client>) -> Option<Self> {
        let client = client.filter(|_| std::env::var_os(admin::INSTANCE).is_some())?;
        Some(Self::of(client.clone()))
    }

    fn of(client: Client) -> Self {
        let removal = Removal::follow(client.clone());
        Self { client, removal }
    }

    /// Asks the API server. Whatever it does not say clearly leaves the pods guarded.
    pub(super) async fn decide(&self) -> Farewell {
        match self.daemon_set().await {
            Farewell::Stays(_) if self.removal.has_begun() => {
                Farewell::Uninstalled("the agents' namespace is being removed")
            }
            said => said,
        }
    }

    async fn daemon_set(&self) -> Farewell {
        let api: Api<DaemonSet> = Api::namespaced(self.client.clone(), install::NAMESPACE);
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
}

/// The node that is about to leave the mesh.
pub(super) struct Leaving {
    interceptor: Arc<Interceptor>,
    place: Option<chain::Place>,
    trust: Option<PathBuf>,
}

/// Says what becomes of the node, and gives it where it is to leave. `asks` is `None` of an
/// agent that no DaemonSet runs.
pub(super) async fn say(
    asks: Option<&Asks>,
    options: &Options,
    interceptor: &Arc<Interceptor>,
) -> Option<Leaving> {
    let why = match asks {
        None => "nothing tells that no agent follows".to_owned(),
        Some(asks) => match asks.decide().await {
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
mod tests;
