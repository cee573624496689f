//! Finds the pod of the agent that serves a node. Called by [`super::run`].

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::ListParams;
use kube::{Api, Client};

use super::{Place, PodName, RemoteError};
use crate::install::NAMESPACE;

/// Label of the agents' pods in `deploy/base/agent.yaml`.
const AGENTS: &str = "app.kubernetes.io/name=isthmus-agent";
/// Their container.
pub(super) const CONTAINER: &str = "agent";
/// Nodes that an error names at most.
const MAX_NAMED: usize = 10;

/// The pod of the agent.
pub(super) async fn agent(client: &Client, place: &Place) -> Result<String, RemoteError> {
    let node = match place {
        Place::Node(node) => node.clone(),
        Place::Pod(pod) => node_of(client, pod).await?,
    };
    let on_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let agents = agents(client, on_node).await?;
    let Some(agent) = agents.iter().max_by_key(|pod| rank(pod)) else {
        let others = self::agents(client, ListParams::default()).await?;
        return Err(no_agent(node, &others));
    };
    let pod = agent.metadata.name.clone().unwrap_or_default();
    match is_running(agent) {
        true => Ok(pod),
        false => Err(RemoteError::NotRunning {
            node,
            pod,
            why: state(agent),
        }),
    }
}

async fn node_of(client: &Client, pod: &PodName) -> Result<String, RemoteError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    let found = match api.get(&pod.name).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => {
            return Err(RemoteError::NoPod(pod.clone()));
        }
        found => found.map_err(|error| {
            let permission = format!("get pods in namespace {}", pod.namespace);
            refused(format!("read pod {pod}"), permission, error)
        })?,
    };
    let node = found.spec.and_then(|spec| spec.node_name);
    node.ok_or_else(|| RemoteError::NoNode(pod.clone()))
}

async fn agents(client: &Client, params: ListParams) -> Result<Vec<Pod>, RemoteError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let listed = api.list(&params.labels(AGENTS)).await;
    let listed = listed.map_err(|error| {
        let permission = format!("list pods in namespace {NAMESPACE}");
        refused("list the agents' pods".to_owned(), permission, error)
    })?;
    Ok(listed.items)
}

/// The error of a request that needs `permission`.
pub(super) fn refused(what: String, permission: String, error: kube::Error) -> RemoteError {
    match error {
        kube::Error::Api(status) if status.is_forbidden() => RemoteError::Forbidden {
            what,
            message: status.message,
            permission,
        },
        error => RemoteError::Api {
            what,
            source: Box::new(error),
        },
    }
}

/// Orders the pods of one node. While one agent replaces another, the ready one serves the node,
/// and of two that are ready the younger.
fn rank(pod: &Pod) -> (bool, bool, bool, Option<&k8s_openapi::jiff::Timestamp>) {
    let stays = pod.metadata.deletion_timestamp.is_none();
    let ready = container(pod).is_some_and(|status| status.ready);
    let created = pod.metadata.creation_timestamp.as_ref();
    (
        is_running(pod),
        ready,
        stays,
        created.map(|created| &created.0),
    )
}

fn is_running(pod: &Pod) -> bool {
    let state = container(pod).and_then(|status| status.state.as_ref());
    state.is_some_and(|state| state.running.is_some())
}

fn container(pod: &Pod) -> Option<&ContainerStatus> {
    let status = pod.status.as_ref()?;
    let mut containers = status.container_statuses.iter().flatten();
    containers.find(|status| status.name == CONTAINER)
}

/// The state of an agent that does not run.
fn state(pod: &Pod) -> String {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let phase = phase.unwrap_or("Pending");
    let state = container(pod).and_then(|status| status.state.as_ref());
    let waiting = state.and_then(|state| state.waiting.as_ref());
    let ended = state.and_then(|state| state.terminated.as_ref());
    let (reason, message) = match (waiting, ended) {
        (Some(waiting), _) => (&waiting.reason, &waiting.message),
        (None, Some(ended)) => (&ended.reason, &ended.message),
        (None, None) => (&None, &None),
    };
    let why = [reason, message].into_iter().flatten();
    let why: Vec<_> = why.map(|text| text.trim()).collect();
    match why.is_empty() {
        true => format!("pod {name} is {phase}"),
        false => format!("pod {name} is {phase} ({})", why.join(": ")),
    }
}

fn no_agent(node: String, others: &[Pod]) -> RemoteError {
    let nodes = others.iter().filter_map(|pod| pod.spec.as_ref());
    let nodes: BTreeSet<_> = nodes.filter_map(|spec| spec.node_name.as_deref()).collect();
    if nodes.is_empty() {
        return RemoteError::NoAgents;
    }
    let mut named: Vec<_> = nodes.iter().take(MAX_NAMED).copied().collect();
    let more = format!("{} more", nodes.len().saturating_sub(MAX_NAMED));
    if nodes.len() > MAX_NAMED {
        named.push(&more);
    }
    RemoteError::NoAgent {
        node,
        others: named.join(", "),
    }
}
