//! From pods to workloads. Called by [`build`](super::build()).

mod claims;
mod convert;
mod names;
mod pod;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use convert::{Draft, convert, readable_addresses};

use super::build::nameless;
use super::object::{Objects, Sourced};
use super::problem::Problem;
use super::settings::MeshSettings;
use super::workload::Workload;
use super::world::World;

pub use pod::{BadAddress, Place, Pod, Seen, Stage};
pub(crate) use pod::{addresses, ours};

/// What holds for all pods of one conversion.
pub(super) struct Scope<'a> {
    pub(super) mesh: &'a MeshSettings,
    /// The node whose pods are local.
    pub(super) node: &'a str,
    pub(super) meshed_namespaces: BTreeSet<&'a str>,
    pub(super) previous: Option<&'a World>,
}

/// What became of the pods.
pub(super) struct Pods {
    /// Ordered by uid.
    pub(super) workloads: Vec<Arc<Workload>>,
    /// Addresses that several pods claim, or one that cannot be used.
    pub(super) disputed: BTreeSet<IpAddr>,
    /// See [`Built::complete`](super::Built).
    pub(super) complete: bool,
    /// See [`Built::all_found`](super::Built).
    pub(super) all_found: bool,
}

pub(super) fn workloads(
    sources: &[&Objects],
    scope: &Scope<'_>,
    problems: &mut Vec<Problem>,
) -> Pods {
    let mut drafts = Vec::new();
    let mut disputed = BTreeSet::new();
    let mut complete = true;
    for (uid, pods) in by_uid(sources, problems) {
        let draft = match pods[..] {
            [pod] => convert(pod, &uid, scope, problems),
            _ => {
                problems.push(described_twice(&uid, &pods));
                Draft::Unusable
            }
        };
        let before = previous_form(&uid, scope);
        match (draft, before) {
            (Draft::Finished, _) => {}
            (Draft::Good(workload), _) => drafts.push(workload),
            (Draft::NotEnrollable(_), Some(before)) if before.local.is_some() => {
                drafts.push(before);
            }
            (Draft::NotEnrollable(workload), _) => drafts.push(workload),
            (Draft::Unusable, Some(before)) => drafts.push(before),
            (Draft::Unusable, None) => {
                complete = false;
                disputed.extend(pods.iter().flat_map(|pod| readable_addresses(pod)));
            }
        }
    }
    disputed.extend(claims::settle(&mut drafts, scope, problems));
    // In a cluster a pod that is not enrolled is known all the same, as a destination.
    let unfound = |it: &&Workload| it.local.is_none() && scope.is_to_enrol(it);
    let all_described = drafts
        .iter()
        .filter(unfound)
        .all(|it| it.origin.is_of_api());
    // Without an address it has no sandbox either.
    let all_found = drafts
        .iter()
        .filter(unfound)
        .all(|it| it.origin.is_of_api() && it.addresses.is_empty());
    let mut labels = HashSet::new();
    let workloads = drafts.into_iter().map(|mut draft| {
        draft.labels = match labels.get(&draft.labels) {
            Some(same) => Arc::clone(same),
            None => Arc::clone(&draft.labels),
        };
        labels.insert(Arc::clone(&draft.labels));
        share(draft, scope)
    });
    Pods {
        workloads: workloads.collect(),
        disputed,
        complete: complete && all_described,
        all_found: complete && all_found,
    }
}

impl Scope<'_> {
    /// Whether it is this node's agent that is to enrol the workload.
    fn is_to_enrol(&self, workload: &Workload) -> bool {
        workload.meshed && *workload.node == *self.node
    }
}

fn by_uid<'a>(
    sources: &[&'a Objects],
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, Vec<&'a Sourced<Pod>>> {
    let mut by_uid: BTreeMap<String, Vec<&Sourced<Pod>>> = BTreeMap::new();
    for pod in sources.iter().flat_map(|objects| &objects.pods) {
        if pod.object.name.is_empty() {
            problems.push(nameless(&pod.origin, "Pod"));
        } else {
            by_uid.entry(pod.object.key()).or_default().push(pod);
        }
    }
    for pods in by_uid.values_mut() {
        pods.sort_by_key(|pod| &pod.origin);
    }
    by_uid
}

fn described_twice(uid: &str, pods: &[&Sourced<Pod>]) -> Problem {
    let places: Vec<String> = pods.iter().map(|pod| pod.origin.to_string()).collect();
    Problem::new(
        &pods[0].origin,
        format!("Pod {uid}"),
        "metadata.name",
        format!("it is described more than once: {}", places.join(", ")),
        "keep one description; until then none of them counts",
    )
}

/// The form in which the previous generation had the pod, unless its identity
/// would now be of another trust domain.
fn previous_form(uid: &str, scope: &Scope<'_>) -> Option<Workload> {
    let world = scope.previous?;
    let previous = world.workload(uid)?;
    let domain = previous.identity.trust_domain();
    let was_own = *domain == world.mesh.trust_domain;
    let is_own = *domain == scope.mesh.trust_domain;
    (was_own == is_own).then(|| Workload::clone(previous))
}

/// The previous generation's `Arc` where nothing changed.
fn share(draft: Workload, scope: &Scope<'_>) -> Arc<Workload> {
    let previous = scope.previous.and_then(|world| world.workload(&draft.uid));
    match previous {
        Some(previous) if **previous == draft => previous.clone(),
        _ => Arc::new(draft),
    }
}
