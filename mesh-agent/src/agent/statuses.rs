//! Tells the writer of statuses what came of the policies and of this node's pods, whenever a
//! configuration comes in force or a pod's place in the mesh changes. Started by the agent
//! where the Kubernetes API configures it, once its first configuration is in force.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::fleet::Fleet;
use crate::config::{self, PolicyVersion};
use crate::model::{Problem, Severity, UnreadKind, Workload, World};
use crate::status::{PodStatus, PolicyKind, PolicyStatus, Snapshot, Writer};

/// How often at most: pods come by the hundred, and the writer gathers for longer.
const EVERY: Duration = Duration::from_millis(250);

/// What the agent knows at one moment.
pub(super) struct Facts<'a> {
    /// This node's name.
    pub(super) node: &'a str,
    /// The configuration in force.
    pub(super) world: &'a World,
    /// The policies that it was made of.
    pub(super) policies: &'a [PolicyVersion],
    /// Its faults.
    pub(super) problems: &'a [Problem],
    /// The pods in the mesh, by uid.
    pub(super) enrolled: HashSet<&'a str>,
    /// Why pods that should be could not be brought in, by uid.
    pub(super) pending: HashMap<&'a str, &'a [Problem]>,
}

/// Statuses that are being written, until it is dropped.
pub(super) struct Statuses {
    end: oneshot::Sender<()>,
    task: JoinSet<()>,
}

impl Statuses {
    /// Writes nothing more, and lets another agent write the policies' at once. Returns within
    /// the second that [`Writer::end`] takes at most.
    pub(super) async fn end(self) {
        let Self { end, mut task } = self;
        drop(end);
        task.join_next().await;
    }
}

/// Writes statuses from here on.
pub(super) fn keep(client: Client, node: &str, fleet: &Arc<Fleet>) -> Statuses {
    let writer = Writer::new(client, node, config::NAMESPACE);
    let (fleet, node) = (Arc::clone(fleet), node.to_owned());
    let (end, ended) = oneshot::channel();
    let mut task = JoinSet::new();
    task.spawn(async move {
        tokio::select! {
            () = tell(&writer, &fleet, &node) => {}
            _ = ended => {}
        }
        writer.end().await;
    });
    Statuses { end, task }
}

async fn tell(writer: &Writer, fleet: &Fleet, node: &str) {
    let mut news = fleet.subscribe();
    loop {
        // Before the look, so that no news in between is lost.
        news.mark_unchanged();
        writer.update(fleet.with_facts(node, snapshot));
        tokio::time::sleep(EVERY).await;
        if news.changed().await.is_err() {
            return;
        }
    }
}

/// What is to be written.
fn snapshot(facts: &Facts<'_>) -> Snapshot {
    let mut by_object: HashMap<&str, Vec<&Problem>> = HashMap::new();
    for problem in facts.problems {
        if let Some(object) = &problem.object {
            by_object.entry(object).or_default().push(problem);
        }
    }
    let policies = facts.policies.iter();
    let policies = policies.map(|policy| policy_status(policy, &by_object));
    let local = facts.world.workloads();
    let local = local.filter(|it| it.meshed && *it.node == *facts.node);
    Snapshot {
        policies: policies.collect(),
        pods: local
            .filter_map(|workload| pod_status(workload, facts, &by_object))
            .collect(),
    }
}

fn policy_status(policy: &PolicyVersion, by_object: &HashMap<&str, Vec<&Problem>>) -> PolicyStatus {
    let (kind, title) = match policy.kind {
        UnreadKind::AuthorizationPolicy => (PolicyKind::AuthorizationPolicy, "AuthorizationPolicy"),
        UnreadKind::PeerAuthentication => (PolicyKind::PeerAuthentication, "PeerAuthentication"),
    };
    let (namespace, name) = (&policy.namespace, &policy.name);
    // What is said of the last good version, which stays in force, is not of this one.
    let problems = match policy.unread.is_empty() {
        false => policy.unread.clone(),
        true => {
            let said = by_object.get(format!("{title} {namespace}/{name}").as_str());
            said.into_iter().flatten().copied().cloned().collect()
        }
    };
    PolicyStatus {
        kind,
        namespace: namespace.to_string(),
        name: name.to_string(),
        generation: policy.generation,
        problems,
    }
}

/// `None` of a pod of which there is nothing to say yet: it is about to start, or to be
/// enrolled.
fn pod_status(
    workload: &Workload,
    facts: &Facts<'_>,
    by_object: &HashMap<&str, Vec<&Problem>>,
) -> Option<PodStatus> {
    let not_enrolled = match facts.enrolled.contains(&*workload.uid) {
        true => None,
        false => Some(why_not(workload, facts, by_object)?),
    };
    Some(PodStatus {
        namespace: workload.namespace.to_string(),
        name: workload.name.to_string(),
        uid: workload.kube_uid.as_deref()?.to_owned(),
        not_enrolled,
        warning: warning(workload, facts.world),
    })
}

/// The NetworkPolicies that shut the tunnels' port of the pod.
fn warning(workload: &Workload, world: &World) -> Option<String> {
    let policies = world.network_policies();
    let shut = [policies.shut_into(workload), policies.shut_out_of(workload)];
    let shut: Vec<String> = shut
        .into_iter()
        .flatten()
        .map(|it| it.to_string())
        .collect();
    (!shut.is_empty()).then(|| shut.join("; "))
}

fn why_not(
    workload: &Workload,
    facts: &Facts<'_>,
    by_object: &HashMap<&str, Vec<&Problem>>,
) -> Option<String> {
    let pending = facts.pending.get(&*workload.uid).copied();
    let pending: Vec<_> = pending.unwrap_or_default().iter().collect();
    let found = match pending.is_empty() {
        false => pending,
        true => by_object
            .get(format!("Pod {}", workload.uid).as_str())
            .cloned()
            .unwrap_or_default(),
    };
    let errors = found
        .into_iter()
        .filter(|problem| problem.severity == Severity::Error);
    let errors: Vec<_> = errors.map(Problem::in_place).collect();
    (!errors.is_empty()).then(|| errors.join("; "))
}

#[cfg(test)]
mod tests;
