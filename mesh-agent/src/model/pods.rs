//! From pods to workloads. Called by [`build`](super::build()).

mod address;
mod before;
mod claims;
mod convert;
mod names;
mod pod;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use before::Before;
use convert::{Draft, convert, readable_addresses};

use super::build::nameless;
use super::object::{Objects, Sourced};
use super::problem::Problem;
use super::settings::MeshSettings;
use super::workload::Workload;
use super::world::World;

pub(super) use before::{Basis, MadeOf};
pub use pod::{BadAddress, Place, Pod, Seen, Stage};
pub(crate) use pod::{ContainerPort, addresses, hbone_port_names, hbone_ports, order, ours};

/// What holds for all pods of one conversion.
pub(super) struct Scope<'a> {
    pub(super) mesh: &'a MeshSettings,
    /// The node whose pods are local.
    pub(super) node: &'a str,
    /// Whether the pods of a namespace take part unless they opt out.
    pub(super) namespaces: BTreeMap<&'a str, bool>,
    pub(super) previous: Option<&'a World>,
}

/// What became of the pods.
pub(super) struct Pods {
    /// Ordered by uid.
    pub(super) workloads: Vec<Arc<Workload>>,
    /// What each of them was made of.
    pub(super) made_of: Vec<MadeOf>,
    pub(super) basis: Basis,
    /// Addresses that several pods claim, or one that cannot be used.
    pub(super) disputed: BTreeSet<IpAddr>,
    /// Addresses that several pods claim, and the place among the workloads of the one that has it.
    pub(super) decided: BTreeMap<IpAddr, usize>,
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
    let mut made_of = Vec::new();
    let mut disputed = BTreeSet::new();
    let mut complete = true;
    let basis = scope.basis();
    let mut before = Before::new(scope, &basis);
    let ordered = in_order(sources, problems);
    for pods in ordered.chunk_by(|one, two| order_of(one, two).is_eq()) {
        let first = &pods[0].object;
        before.advance(first);
        let from = MadeOf {
            pod: Some(Arc::clone(first)),
            namespace_meshed: scope.namespaces.get(&*first.namespace).copied(),
        };
        if let Some(same) = before.made_of(&from).filter(|_| pods.len() == 1) {
            drafts.push(Arc::clone(same));
            made_of.push(from);
            continue;
        }
        let uid = first.key();
        let known = problems.len();
        let draft = match pods[..] {
            [pod] => convert(pod, &uid, before.workload(), scope, problems),
            _ => {
                problems.push(described_twice(&uid, pods));
                Draft::Unusable
            }
        };
        // A problem is to be reported each time.
        let again = problems.len() == known;
        let earlier = before.workload().and_then(|it| earlier_form(it, scope));
        let (workload, from) = match (draft, earlier) {
            (Draft::Finished, _) => continue,
            (Draft::Good(workload), _) if again => (before.shared(workload), from),
            (Draft::Good(workload), _) => (workload, MadeOf::default()),
            (Draft::NotEnrollable(_), Some(earlier)) if earlier.local.is_some() => {
                (Arc::clone(earlier), MadeOf::default())
            }
            (Draft::NotEnrollable(workload), _) => (workload, MadeOf::default()),
            (Draft::Unusable, Some(earlier)) => (Arc::clone(earlier), MadeOf::default()),
            (Draft::Unusable, None) => {
                complete = false;
                disputed.extend(pods.iter().flat_map(|pod| readable_addresses(pod)));
                continue;
            }
        };
        drafts.push(workload);
        made_of.push(from);
    }
    let claimed = claims::Claimants {
        sources,
        pods: &ordered,
        scope,
    };
    let settled = claims::settle(&mut drafts, &mut made_of, &claimed, problems);
    disputed.extend(settled.disputed);
    for (draft, _) in drafts
        .iter_mut()
        .zip(&made_of)
        .filter(|(_, from)| from.pod.is_none())
    {
        share(draft, scope);
    }
    // In a cluster a pod that is not enrolled is known all the same, as a destination.
    let unfound = |it: &&Arc<Workload>| it.local.is_none() && scope.is_to_enrol(it);
    let all_described = drafts
        .iter()
        .filter(unfound)
        .all(|it| it.origin.is_of_api());
    // Without an address it has no sandbox either.
    let all_found = drafts
        .iter()
        .filter(unfound)
        .all(|it| it.origin.is_of_api() && it.addresses.is_empty());
    Pods {
        workloads: drafts,
        made_of,
        basis,
        disputed,
        decided: settled.decided,
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

/// The pods by their uid, those of one uid by origin.
fn in_order<'a>(
    sources: &[&'a Objects],
    problems: &mut Vec<Problem>,
) -> Vec<&'a Sourced<Arc<Pod>>> {
    let mut pods: Vec<&Sourced<Arc<Pod>>> = Vec::new();
    for pod in sources.iter().flat_map(|objects| &objects.pods) {
        if pod.object.name.is_empty() {
            problems.push(nameless(&pod.origin, "Pod"));
        } else {
            pods.push(pod);
        }
    }
    // Those of the API come in this order, and are then only looked over.
    pods.sort_by(|one, two| order_of(one, two).then_with(|| one.origin.cmp(&two.origin)));
    pods
}

fn order_of(one: &Sourced<Arc<Pod>>, two: &Sourced<Arc<Pod>>) -> Ordering {
    one.object.order(&two.object)
}

fn described_twice(uid: &str, pods: &[&Sourced<Arc<Pod>>]) -> Problem {
    let places: Vec<String> = pods.iter().map(|pod| pod.origin.to_string()).collect();
    Problem::new(
        &pods[0].origin,
        format!("Pod {uid}"),
        "metadata.name",
        format!("it is described more than once: {}", places.join(", ")),
        "keep one description; until then none of them counts",
    )
}

/// Puts the previous generation's `Arc` in the place of one that is equal.
fn share(draft: &mut Arc<Workload>, scope: &Scope<'_>) {
    let previous = scope.previous.and_then(|world| world.workload(&draft.uid));
    if let Some(previous) = previous.filter(|previous| **previous == *draft) {
        draft.clone_from(previous);
    }
}

/// The form in which the previous generation had the pod, by uid.
fn previous_form<'a>(uid: &str, scope: &Scope<'a>) -> Option<&'a Arc<Workload>> {
    earlier_form(scope.previous?.workload(uid)?, scope)
}

/// A workload of the previous generation, unless its identity would now be of another
/// trust domain or of another form.
fn earlier_form<'a>(earlier: &'a Arc<Workload>, scope: &Scope<'_>) -> Option<&'a Arc<Workload>> {
    let world = scope.previous?;
    let domain = earlier.identity.trust_domain();
    let was_own = *domain == world.mesh.trust_domain;
    let is_own = *domain == scope.mesh.trust_domain;
    let form = |mesh: &'_ MeshSettings| mesh.id_forms.template(domain).cloned();
    let same_form = form(&world.mesh) == form(scope.mesh);
    (was_own == is_own && same_form).then_some(earlier)
}
