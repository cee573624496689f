//! Whether a pod of this node may start: the CNI plugin's question, answered out of the
//! configuration in force and the pods that are enrolled. Served by the agent from its start
//! to its end.

mod cluster;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::fleet::Fleet;
use super::view::View;
use super::{Error, Options, TICK};
use crate::admin::AgentView;
use crate::config::KubeHealth;
use crate::model::{Workload, World};
use crate::node::chain::Keeper;
use crate::node::cni::{Admitted, BoxFuture, CniServer, Gate, PodSandbox, Refusal};
use crate::node::{Sandboxes, by_run};
use crate::proxy::Shared;

pub(super) use cluster::Cluster;

/// How long a pod waits before it is refused. The watch of the Kubernetes API tells of a pod
/// before the kubelet begins with it, or a moment later; enrolling takes milliseconds.
const LIMIT: Duration = Duration::from_secs(10);

/// Serves the CNI plugin, and keeps it in the chain where that is wanted, until the tasks that
/// are returned are dropped.
pub(super) fn open(
    options: &Options,
    view: &Arc<View>,
    shared: &Arc<Shared>,
    fleet: &Arc<Fleet>,
    sandboxes: &Arc<Sandboxes>,
    cluster: Option<Cluster>,
) -> Result<(Option<Arc<Keeper>>, JoinSet<()>), Error> {
    let mut tasks = JoinSet::new();
    let gate = NodeGate {
        view: Arc::clone(view),
        shared: Arc::clone(shared),
        fleet: Arc::clone(fleet),
        sandboxes: Arc::clone(sandboxes),
        cluster,
    };
    // Before the chain names it.
    let server = CniServer::bind(&options.run_dir)?;
    tasks.spawn(server.serve(Arc::new(gate)));
    let mut kept = None;
    if let Some((place, settings)) = &options.chain {
        let executable = std::env::current_exe().map_err(Error::Start)?;
        let keeper = Keeper::new(place.clone(), settings.clone(), executable);
        view.show_chain(&keeper);
        let fleet = Arc::clone(fleet);
        kept = Some(Arc::clone(&keeper));
        tasks.spawn(async move {
            tokio::select! {
                () = keeper.keep() => {}
                // The newer agent keeps a plugin of its own there.
                () = superseded(&fleet) => {}
            }
        });
    }
    Ok((kept, tasks))
}

/// Waits until another agent has taken the node's pods over, of which nothing tells.
async fn superseded(fleet: &Fleet) {
    while !fleet.is_superseded() {
        tokio::time::sleep(TICK).await;
    }
}

/// The agent at the door.
struct NodeGate {
    view: Arc<View>,
    shared: Arc<Shared>,
    fleet: Arc<Fleet>,
    sandboxes: Arc<Sandboxes>,
    /// Where the configuration comes from the Kubernetes API.
    cluster: Option<Cluster>,
}

/// Why a pod may not start yet.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Missing {
    /// The Kubernetes API is heard in part: it is known who the pod is, and not what goes with it.
    Unheard(String),
    /// Anything else.
    Other(String),
}

impl NodeGate {
    async fn wait(&self, pod: &PodSandbox) -> Result<Admitted, Refusal> {
        let health = self.cluster.as_ref().map(|cluster| &cluster.health);
        let draining = self.shared.draining.subscribe();
        wait(
            || self.standing(pod),
            self.fleet.subscribe(),
            health,
            draining,
        )
        .await
    }

    /// Whether the pod may start as things are, or what is missing.
    async fn standing(&self, pod: &PodSandbox) -> Result<Admitted, Missing> {
        let view = Arc::clone(&self.view);
        // It asks the kernel.
        let ready = tokio::task::spawn_blocking(move || view.ready()).await;
        if let Ok(Err(missing)) = ready {
            return Err(Missing::Other(missing.join("; ")));
        }
        let world = Arc::clone(&self.shared.generation.load().world);
        let Some(workload) = find(&world, pod).map_err(Missing::Other)? else {
            let why = "the agent has not heard of the pod yet";
            return Err(Missing::Other(why.to_owned()));
        };
        if !workload.meshed {
            return match &self.cluster {
                Some(cluster) => cluster.may_start_outside(pod).await,
                None => Ok(Admitted::NotMeshed),
            };
        }
        if let Some(cluster) = &self.cluster {
            cluster.is_settled()?;
        }
        if self.is_enrolled(workload, pod) {
            return Ok(Admitted::Enrolled);
        }
        let problems = self.fleet.pending(&workload.uid);
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        Err(Missing::Other(match problems.is_empty() {
            false => problems.join("; "),
            true => "it is not enrolled yet: its cgroup or network namespace is not found, or \
                     another object disputes its addresses; see `mesh-agent problems`"
                .to_owned(),
        }))
    }

    /// Whether the pod is enrolled in this sandbox, not in an earlier one.
    fn is_enrolled(&self, workload: &Workload, pod: &PodSandbox) -> bool {
        let Some(enrolled) = self.fleet.pod(&workload.uid) else {
            return false;
        };
        let of_this = enrolled.workload().kube_uid == workload.kube_uid;
        let here = pod.netns.as_ref();
        of_this && here.is_some_and(|netns| enrolled.netns().is_at(netns))
    }

    /// The pod's UID, by its name where the container runtime does not tell it.
    fn uid(&self, pod: &PodSandbox) -> Option<String> {
        if !pod.uid.is_empty() {
            return Some(pod.uid.clone());
        }
        let world = Arc::clone(&self.shared.generation.load().world);
        let workload = find(&world, pod).ok()??;
        workload.kube_uid.as_deref().map(str::to_owned)
    }
}

impl Gate for NodeGate {
    fn admit<'a>(&'a self, mut pod: PodSandbox) -> BoxFuture<'a, Result<Admitted, Refusal>> {
        // As it is to be found from here.
        pod.netns = pod.netns.map(by_run);
        Box::pin(async move {
            if let (Some(uid), Some(netns)) = (self.uid(&pod), &pod.netns) {
                self.sandboxes
                    .told(&uid, netns.clone(), pod.addresses.clone());
            }
            let answer = self.wait(&pod).await;
            let (namespace, name) = (&pod.namespace, &pod.name);
            match &answer {
                Ok(Admitted::Enrolled) => tracing::info!(namespace, name, "a pod starts enrolled"),
                Ok(Admitted::NotMeshed) => {
                    tracing::debug!(namespace, name, "a pod starts outside the mesh");
                }
                Err(why) => tracing::warn!(namespace, name, %why, "a pod may not start"),
            }
            answer
        })
    }

    fn leave<'a>(&'a self, pod: PodSandbox) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if let Some(uid) = self.uid(&pod) {
                self.sandboxes.left(&uid, pod.netns.as_deref());
            }
        })
    }
}

/// Looks until the pod may start, again with each of the fleet's news, and when the API is heard
/// as one again. What is missing after [`LIMIT`] is the refusal, also where the API is still heard
/// in part: the pod would start under policies of before, and the kubelet tries again.
async fn wait<F>(
    look: impl Fn() -> F + Send,
    mut news: watch::Receiver<u64>,
    health: Option<&KubeHealth>,
    mut draining: watch::Receiver<bool>,
) -> Result<Admitted, Refusal>
where
    F: Future<Output = Result<Admitted, Missing>> + Send,
{
    let deadline = tokio::time::sleep(LIMIT);
    let mut deadline = std::pin::pin!(deadline);
    loop {
        // Before the look, so that no news in between is lost.
        news.mark_unchanged();
        let missing = match look().await {
            Ok(admitted) => return Ok(admitted),
            Err(missing) => missing,
        };
        let settled = async {
            match (&missing, health) {
                (Missing::Unheard(_), Some(health)) => health.settled().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            // Their senders live as long as the agent.
            _ = news.changed() => {}
            () = settled => {}
            _ = draining.wait_for(|draining| *draining) => {
                return Err(Refusal("the agent is shutting down".to_owned()));
            }
            () = &mut deadline => {
                let (Missing::Unheard(why) | Missing::Other(why)) = missing;
                return Err(Refusal(why));
            }
        }
    }
}

/// The pod in the configuration. One that was read from a folder has no UID, and is known by
/// its name.
fn find<'a>(world: &'a World, pod: &PodSandbox) -> Result<Option<&'a Arc<Workload>>, String> {
    let found = world.workload(&format!("{}/{}", pod.namespace, pod.name));
    let Some(known) = found.and_then(|workload| workload.kube_uid.as_deref()) else {
        return Ok(found);
    };
    if pod.uid.is_empty() || pod.uid == known {
        return Ok(found);
    }
    Err("the agent has heard only of another pod with this name, which it replaces".to_owned())
}

#[cfg(test)]
mod tests;
