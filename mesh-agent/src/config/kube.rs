//! The Kubernetes API as a source: watches what the mesh is made of, and hands the agent
//! a new [`World`](crate::model::World) whenever it changes. Opened by the agent.
//!
//! - Watched are Namespaces, Nodes, Pods, Services and EndpointSlices; PeerAuthentications,
//!   AuthorizationPolicies and our MeshConfig where their definitions are installed, which
//!   is looked for every [`DISCOVER_EVERY`](discovery::DISCOVER_EVERY); ServiceCIDRs and
//!   NetworkPolicies; and whatever else of the groups that change what a mesh does, to say that it
//!   is not enforced. That a kind is not installed must be proven by its own list and its
//!   definition.
//! - The first world is told once every one of them was listed in full. A kind that is
//!   listed again takes the place of the old list at once, never by halves.
//! - While the server is away what is known stays in force. [`KubeHealth`] says since when.
//! - An object that cannot be read counts as it last was. A policy that never was good is
//!   feared: see [`crate::model::UnreadPolicy`]. Other objects do not suffer from it.
//! - Where a pod is on this node is for [`Sandboxes`] to say, never for its annotations.
//! - The MeshConfig counts in namespace [`NAMESPACE`] alone: others are a tenant's.

mod backoff;
mod discovery;
mod follow;
mod health;
mod heard;
mod intern;
mod kinds;
mod pod;
mod presence;
mod read;
mod received;
mod settings;
mod store;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::source::{ConfigError, Loaded};
use crate::node::Sandboxes;
use read::Update;
use store::Store;

pub use health::{Hearing, KindHealth, KubeHealth, Turns};
pub use kinds::NAMESPACE;

/// Changes that wait for the source to take them. A list counts as one.
const QUEUE: usize = 1024;

/// Worlds are made at most this often...
const EVERY: Duration = Duration::from_millis(100);
/// ...and for at most one part in so many of the time, however large the cluster is.
const SHARE: u32 = 5;

/// How often a pod that was not found on the node is looked for.
const LOOK_FOR_MISSING: Duration = Duration::from_millis(500);
/// How often those that were found are looked at: a sandbox that fails is replaced by
/// another, of which only CNI tells.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The watched Kubernetes API.
pub struct KubeSource {
    updates: mpsc::Receiver<Update>,
    health: KubeHealth,
    sandboxes: watch::Receiver<u64>,
    /// Away while a world is being made.
    store: Option<Box<Store>>,
    /// Kept here and not in the future, so that dropping the future loses nothing.
    making: Option<JoinHandle<(Box<Store>, Option<Loaded>)>>,
    /// Taken from the queue and not yet entered.
    taken: Vec<Update>,
    /// Whether something was entered since a world was last made.
    dirty: bool,
    /// When the next world may be made.
    not_before: Instant,
    look_at: Instant,
    /// They end with the source.
    _following: JoinSet<()>,
}

impl KubeSource {
    /// Starts to watch as the agent of `node`. Waits for nothing: a server that is away
    /// is tried until it answers. To be called in a tokio runtime.
    ///
    /// # Errors
    /// When `node` is empty.
    pub async fn open(
        client: Client,
        node: &str,
        sandboxes: Arc<Sandboxes>,
    ) -> Result<Self, ConfigError> {
        if node.is_empty() {
            return Err(ConfigError::NoNode);
        }
        let (tell, updates) = mpsc::channel(QUEUE);
        let health = KubeHealth::default();
        let mut following = JoinSet::new();
        for kind in kinds::always() {
            following.spawn(follow::follow(
                client.clone(),
                kind,
                tell.clone(),
                health.clone(),
            ));
        }
        following.spawn(discovery::follow(client, tell, health.clone()));
        let now = Instant::now();
        Ok(Self {
            updates,
            health,
            sandboxes: sandboxes.subscribe(),
            store: Some(Box::new(Store::new(node, sandboxes))),
            making: None,
            taken: Vec::new(),
            dirty: false,
            not_before: now,
            look_at: now,
            _following: following,
        })
    }

    /// How the API is heard.
    pub fn health(&self) -> KubeHealth {
        self.health.clone()
    }

    /// The first time waits until everything was listed; later until something means
    /// something else than before. May be dropped at any time: the next call goes on
    /// where this one was.
    pub async fn changed(&mut self) -> Loaded {
        loop {
            if self.making.is_none() {
                self.due().await;
                let (dirty, store) = (std::mem::take(&mut self.dirty), self.store.take());
                self.making = store.map(|mut store| {
                    tokio::task::spawn_blocking(move || {
                        let loaded = store.make(dirty);
                        (store, loaded)
                    })
                });
            }
            let Some(making) = &mut self.making else {
                unreachable!("the store is either here or in the making");
            };
            let done = making.await;
            self.making = None;
            match done {
                Ok((store, loaded)) => {
                    let now = Instant::now();
                    self.not_before = now + EVERY.max(store.took() * (SHARE - 1));
                    self.look_at = now
                        + match store.misses_some() {
                            true => LOOK_FOR_MISSING,
                            false => LOOK_AGAIN,
                        };
                    self.store = Some(store);
                    if let Some(loaded) = loaded {
                        return loaded;
                    }
                }
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime is shutting down, and this task with it.
                    Err(_) => std::future::pending().await,
                },
            }
        }
    }

    /// Waits until a world is to be made or pods are to be looked for. What came until
    /// then is in the store.
    async fn due(&mut self) {
        loop {
            self.enter();
            let synced = self.store.as_ref().is_some_and(|store| store.is_synced());
            self.health.set_synced(synced);
            let wake = match (synced, self.dirty) {
                (false, _) => None,
                (true, true) => Some(self.not_before),
                (true, false) => Some(self.look_at.max(self.not_before)),
            };
            if wake.is_some_and(|wake| wake <= Instant::now()) {
                return;
            }
            let asleep = async {
                match wake {
                    Some(wake) => tokio::time::sleep_until(wake).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                count = self.updates.recv_many(&mut self.taken, QUEUE) => if count == 0 {
                    // The followers have ended: the runtime is shutting down.
                    std::future::pending().await
                },
                told = self.sandboxes.changed() => match told {
                    Ok(()) => self.look_at = Instant::now(),
                    Err(_) => std::future::pending().await,
                },
                () = asleep => {}
            }
        }
    }

    fn enter(&mut self) {
        if let Some(store) = &mut self.store {
            for update in self.taken.drain(..) {
                self.dirty |= store.enter(update);
            }
        }
    }
}
