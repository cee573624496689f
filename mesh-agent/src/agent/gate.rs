//! Whether a pod of this node may start: the CNI plugin's question, answered out of the
//! configuration in force and the pods that are enrolled. Served by the agent from its start
//! to its end.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use tokio::task::JoinSet;

use super::fleet::Fleet;
use super::view::View;
use super::{Error, Options, TICK};
use crate::admin::AgentView;
use crate::model::{Workload, World, asks_for_mesh};
use crate::node::chain::Keeper;
use crate::node::cni::{Admitted, BoxFuture, CniServer, Gate, PodSandbox, Refusal};
use crate::node::{Sandboxes, by_run};
use crate::proxy::Shared;

/// How long a pod waits before it is refused. The watch of the Kubernetes API tells of a pod
/// before the kubelet begins with it, or a moment later; enrolling takes milliseconds.
const LIMIT: Duration = Duration::from_secs(10);

/// How long the API may take to say who is to be in the mesh.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// Serves the CNI plugin, and keeps it in the chain where that is wanted, until the tasks that
/// are returned are dropped.
pub(super) fn open(
    options: &Options,
    view: &Arc<View>,
    shared: &Arc<Shared>,
    fleet: &Arc<Fleet>,
    sandboxes: &Arc<Sandboxes>,
    api: Option<Client>,
) -> Result<(Option<Arc<Keeper>>, JoinSet<()>), Error> {
    let mut tasks = JoinSet::new();
    let gate = NodeGate {
        view: Arc::clone(view),
        shared: Arc::clone(shared),
        fleet: Arc::clone(fleet),
        sandboxes: Arc::clone(sandboxes),
        api,
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
    api: Option<Client>,
}

impl NodeGate {
    async fn wait(&self, pod: &PodSandbox) -> Result<Admitted, Refusal> {
        let mut draining = self.shared.draining.subscribe();
        let mut news = self.fleet.subscribe();
        let deadline = tokio::time::sleep(LIMIT);
        let mut deadline = std::pin::pin!(deadline);
        loop {
            // Before the look, so that no news in between is lost.
            news.mark_unchanged();
            let missing = match self.standing(pod).await {
                Ok(admitted) => return Ok(admitted),
                Err(missing) => missing,
            };
            tokio::select! {
                // Their senders live as long as the agent.
                _ = news.changed() => {}
                _ = draining.wait_for(|draining| *draining) => {
                    return Err(Refusal("the agent is shutting down".to_owned()));
                }
                () = &mut deadline => return Err(Refusal(missing)),
            }
        }
    }

    /// Whether the pod may start as things are, or what is missing.
    async fn standing(&self, pod: &PodSandbox) -> Result<Admitted, String> {
        let view = Arc::clone(&self.view);
        // It asks the kernel.
        let ready = tokio::task::spawn_blocking(move || view.ready()).await;
        if let Ok(Err(missing)) = ready {
            return Err(missing.join("; "));
        }
        let world = Arc::clone(&self.shared.generation.load().world);
        let Some(workload) = find(&world, pod)? else {
            return Err("the agent has not heard of the pod yet".to_owned());
        };
        if !workload.meshed {
            return match self.is_to_be_meshed(pod).await {
                true => Err("the agent has not heard yet that it is to be in the mesh".to_owned()),
                false => Ok(Admitted::NotMeshed),
            };
        }
        if self.is_enrolled(workload, pod) {
            return Ok(Admitted::Enrolled);
        }
        let problems = self.fleet.pending(&workload.uid);
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        Err(match problems.is_empty() {
            false => problems.join("; "),
            true => "it is not enrolled yet: its cgroup or network namespace is not found, or \
                     another object disputes its addresses; see `mesh-agent problems`"
                .to_owned(),
        })
    }

    /// What the API says at this moment of a pod that the configuration has outside the mesh:
    /// pods and namespaces are watched apart, so a pod may be heard of seconds before its
    /// namespace's label. While the API is away, what is known counts.
    async fn is_to_be_meshed(&self, pod: &PodSandbox) -> bool {
        let Some(client) = &self.api else {
            return false;
        };
        let pods =
            Api::<k8s_openapi::api::core::v1::Pod>::namespaced(client.clone(), &pod.namespace);
        let namespaces = Api::<Namespace>::all(client.clone());
        let both = async {
            tokio::try_join!(
                pods.get_metadata(&pod.name),
                namespaces.get_metadata(&pod.namespace)
            )
        };
        match tokio::time::timeout(ASK_LIMIT, both).await {
            Ok(Ok((pod, namespace))) => {
                let asks = asks_for_mesh(pod.metadata.labels.as_ref())
                    .or_else(|| asks_for_mesh(namespace.metadata.labels.as_ref()));
                asks == Some(true)
            }
            Ok(Err(_)) | Err(_) => false,
        }
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
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::read_objects;
    use crate::model::build;

    /// The kubelet's UID of a pod of its own files, as the mirror's annotation has it.
    const HASH: &str = "0123456789abcdef0123456789abcdef";

    fn world(uid: &str) -> World {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: shop{uid}}}\n\
             spec: {{nodeName: here}}\nstatus: {{podIP: 10.0.0.1}}\n"
        );
        let objects = read_objects(Path::new("world.yaml"), &text).unwrap();
        build([&objects], "here", None).world
    }

    /// Whether the pod is found, or refused as another.
    fn found(world: &World, name: &str, uid: &str) -> Result<bool, String> {
        let pod = PodSandbox {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            container_id: String::new(),
            netns: None,
            addresses: Vec::new(),
        };
        find(world, &pod).map(|found| found.is_some())
    }

    #[test]
    fn a_pod_is_known_by_the_uid_of_the_nodes_kubelet() {
        let mirror = world(&format!(", uid: {HASH}"));
        assert_eq!(found(&mirror, "web", HASH), Ok(true));
        assert_eq!(
            found(&mirror, "web", ""),
            Ok(true),
            "not every runtime tells"
        );
        assert_eq!(found(&mirror, "other", HASH), Ok(false));
        // An earlier or later pod of the name.
        found(&mirror, "web", "f5c3c1a0-0000-4000-8000-000000000001").unwrap_err();
        // A folder's pod mostly has none.
        assert_eq!(found(&world(""), "web", HASH), Ok(true));
    }
}
