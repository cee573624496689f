//! What only one pod can have (an address, a network namespace, a cgroup) and
//! what follows when two claim it. Called once all pods are converted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::super::keys;
use super::super::object::{Objects, Origin, Sourced};
use super::super::problem::{Problem, Severity};
use super::super::workload::{LocalPod, Workload};
use super::address::{self, Claim as AddressClaim, Decision, Nodes};
use super::pod::{Pod, order};
use super::{MadeOf, Scope, previous_form};

/// What the evidence for claims is made of.
pub(super) struct Claimants<'a> {
    pub(super) sources: &'a [&'a Objects],
    /// In the order of their names.
    pub(super) pods: &'a [&'a Sourced<Arc<Pod>>],
    pub(super) scope: &'a Scope<'a>,
}

/// What became of the addresses that several pods claim.
pub(super) struct Settled {
    /// Those that are nobody's.
    pub(super) disputed: BTreeSet<IpAddr>,
    /// Those that are the pod's with this index.
    pub(super) decided: BTreeMap<IpAddr, usize>,
}

/// Settles what two pods claim at once. Of what only one pod of this node can be enrolled with,
/// the pod that was enrolled with it stays so; one that was enrolled otherwise keeps the form it
/// had; none is newly enrolled with it. An address that pods of other nodes claim too keeps none
/// of this node's from being enrolled: what its own namespace holds is for this node to say.
pub(super) fn settle(
    drafts: &mut [Arc<Workload>],
    made_of: &mut [MadeOf],
    claimants: &Claimants<'_>,
    problems: &mut Vec<Problem>,
) -> Settled {
    let scope = claimants.scope;
    // By claim, as it was when first found: as the objects are written.
    let mut found: BTreeMap<Claim, Problem> = BTreeMap::new();
    // A pod that falls back to its earlier form may claim what is another's by now,
    // so look again. Each pod changes at most once: the earlier form is never moved.
    loop {
        let mut changed = false;
        for (claim, claimants) in contested(drafts) {
            found
                .entry(claim.clone())
                .or_insert_with(|| dispute(&claim, &claimants, drafts));
            let enrollable = |i: &&usize| drafts[**i].local.is_some();
            if claimants.iter().filter(enrollable).count() < 2 {
                continue;
            }
            for i in claimants {
                if hold_back(&mut drafts[i], &claim, scope) {
                    made_of[i] = MadeOf::default();
                    changed = true;
                }
            }
        }
        if !changed {
            break;
        }
    }
    let decided = decide(drafts, claimants, &mut found);
    let disputed = found.keys().filter_map(|claim| match claim {
        Claim::Address(ip) if !decided.contains_key(ip) => Some(*ip),
        Claim::Address(_) | Claim::Netns(_) | Claim::Cgroup(_) => None,
    });
    let disputed = disputed.collect();
    problems.extend(found.into_values());
    Settled { disputed, decided }
}

/// Whose those addresses are that several pods claim, where that can be told. What decides, or
/// keeps from it, is added to the problem.
fn decide(
    drafts: &[Arc<Workload>],
    claimants: &Claimants<'_>,
    found: &mut BTreeMap<Claim, Problem>,
) -> BTreeMap<IpAddr, usize> {
    let mut decided = BTreeMap::new();
    if found.is_empty() {
        return decided;
    }
    let nodes = Nodes::new(claimants.sources);
    for (claim, indices) in contested(drafts) {
        let Claim::Address(ip) = claim else { continue };
        let evidence = |i: &usize| claimants.evidence(&nodes, &drafts[*i], ip);
        let evidence: Vec<_> = indices.iter().map(evidence).collect();
        let Some(problem) = found.get_mut(&claim) else {
            continue;
        };
        match address::decide(&evidence) {
            Decision::Owner(owner, why) => {
                let owner = indices[owner];
                let uid = &drafts[owner].uid;
                problem.message = format!(
                    "{}: it counts as that of Pod {uid}, since {why}",
                    problem.message
                );
                problem.cure = "see that the others give it up".to_owned();
                problem.severity = Severity::Warning;
                decided.insert(ip, owner);
            }
            Decision::Disputed(Some(why)) => {
                problem.message = format!("{}; {why}", problem.message);
            }
            Decision::Disputed(None) => {}
        }
    }
    decided
}

impl Claimants<'_> {
    /// What is known of a pod's claim to an address.
    fn evidence(&self, nodes: &Nodes<'_>, draft: &Workload, ip: IpAddr) -> AddressClaim {
        let names = (&draft.namespace, &draft.name);
        let place = self
            .pods
            .binary_search_by(|pod| order(pod.object.names(), names));
        match place {
            Ok(i) => nodes.claim(&self.pods[i].object, draft.meshed, ip, self.scope.node),
            // A form of before; its object cannot be used.
            Err(_) => AddressClaim {
                meshed: draft.meshed,
                ..AddressClaim::default()
            },
        }
    }
}

/// True if the draft had to change.
fn hold_back(draft: &mut Arc<Workload>, claim: &Claim, scope: &Scope<'_>) -> bool {
    if draft.local.is_none() {
        return false;
    }
    match previous_form(&draft.uid, scope).filter(|before| before.local.is_some()) {
        Some(before) if before.identity == draft.identity && claim.is_of(before) => false,
        Some(before) => {
            let changed = draft != before;
            draft.clone_from(before);
            changed
        }
        None => Arc::make_mut(draft).local.take().is_some(),
    }
}

/// What only one pod can have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    Address(IpAddr),
    Netns(PathBuf),
    Cgroup(PathBuf),
}

/// What more than one claims, and who, by index.
fn contested(drafts: &[Arc<Workload>]) -> BTreeMap<Claim, Vec<usize>> {
    // Of a whole cluster's addresses, hardly any. Sorting them costs less than a map.
    let indexed = || drafts.iter().enumerate();
    let addresses = indexed().flat_map(|(i, it)| it.addresses.iter().map(move |ip| (*ip, i)));
    let mut addresses: Vec<(IpAddr, usize)> = addresses.collect();
    addresses.sort_unstable();
    let same = addresses.chunk_by(|one, other| one.0 == other.0);
    let contested = same.filter(|claims| claims.len() > 1).map(|claims| {
        let claimants = claims.iter().map(|(_, i)| *i).collect();
        (Claim::Address(claims[0].0), claimants)
    });
    let mut contested: BTreeMap<Claim, Vec<usize>> = contested.collect();
    let mut paths: BTreeMap<Claim, Vec<usize>> = BTreeMap::new();
    for (i, local) in indexed().filter_map(|(i, it)| Some((i, it.local.as_ref()?))) {
        for claim in Claim::paths_of(local) {
            paths.entry(claim).or_default().push(i);
        }
    }
    paths.retain(|_, claimants| claimants.len() > 1);
    contested.append(&mut paths);
    contested
}

fn dispute(claim: &Claim, claimants: &[usize], drafts: &[Arc<Workload>]) -> Problem {
    let mut pods: Vec<&Arc<Workload>> = claimants.iter().map(|i| &drafts[*i]).collect();
    pods.sort_by_key(|pod| &pod.origin);
    let others = pods[1..].iter().map(|pod| {
        let field = claim.field(&pod.origin);
        let origin = &pod.origin;
        if origin.is_of_api() {
            return format!("Pod {} ({field})", pod.uid);
        }
        let file = origin.file.display();
        format!(
            "Pod {} ({field} in {file}, object {})",
            pod.uid, origin.document
        )
    });
    let others: Vec<String> = others.collect();
    Problem::new(
        &pods[0].origin,
        format!("Pod {}", pods[0].uid),
        claim.field(&pods[0].origin),
        format!("{claim} is also that of {}", others.join(", ")),
        claim.cure(),
    )
}

impl Claim {
    fn all_of(workload: &Workload) -> impl Iterator<Item = Self> {
        let addresses = workload.addresses.iter().map(|ip| Self::Address(*ip));
        addresses.chain(workload.local.iter().flat_map(Self::paths_of))
    }

    fn paths_of(local: &LocalPod) -> [Self; 2] {
        let netns = Self::Netns(local.netns.clone());
        [netns, Self::Cgroup(local.cgroup.clone())]
    }

    fn is_of(&self, workload: &Workload) -> bool {
        Self::all_of(workload).any(|claim| claim == *self)
    }

    fn field(&self, origin: &Origin) -> String {
        match self {
            Self::Address(_) => "status.podIPs".to_owned(),
            // By which the node finds them.
            Self::Netns(_) | Self::Cgroup(_) if origin.is_of_api() => "metadata.uid".to_owned(),
            Self::Netns(_) => format!("metadata.annotations[{}]", keys::NETNS),
            Self::Cgroup(_) => format!("metadata.annotations[{}]", keys::CGROUP),
        }
    }

    fn cure(&self) -> &'static str {
        match self {
            Self::Address(_) => {
                "give each pod its own; until then connections to it are refused and no pod is newly enrolled with it"
            }
            Self::Netns(_) | Self::Cgroup(_) => {
                "give each pod its own; until then no pod is newly enrolled with it"
            }
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(ip) => write!(f, "address {ip}"),
            Self::Netns(path) => write!(f, "network namespace {}", path.display()),
            Self::Cgroup(path) => write!(f, "cgroup {}", path.display()),
        }
    }
}
