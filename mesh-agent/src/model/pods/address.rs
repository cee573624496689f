//! Which of several pods has an address that all of them claim: pure. Nobody is the authority on
//! addresses in Kubernetes. A kubelet writes what it likes into `status.podIPs` of its pods, and a
//! pod of a lost node keeps the address that another pod has by now; so a claim counts as much as
//! there is evidence for it. The tunnel to a meshed pod proves the identity all the same: a wrong
//! decision for a meshed pod fails the connection. A wrong decision for a pod that is not in the
//! mesh would send plaintext, and so is made on this node's own evidence alone.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node;

use super::super::object::{Objects, name};
use super::pod::{Place, Pod};
use crate::policy::IpBlock;

/// One pod's claim to one address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Claim {
    /// Whether the pod is in the mesh.
    pub(super) meshed: bool,
    /// Whether this node's container runtime gave the address to the pod; `None` of a pod of
    /// another node, and of one whose addresses the runtime has not reported.
    pub(super) given_here: Option<bool>,
    /// Whether the address is in the podCIDRs of the pod's node; `None` where it has none.
    pub(super) in_node_range: Option<bool>,
    /// Whether the pod is being deleted.
    pub(super) terminating: bool,
    /// Whether the pod's node is ready; `None` where nothing is known of nodes.
    pub(super) node_ready: Option<bool>,
}

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// That of the claim with this index, and why.
    Owner(usize, &'static str),
    /// Nobody's; with what keeps it from being decided, where there is more to say than that
    /// nothing tells the claims apart.
    Disputed(Option<&'static str>),
}

/// What a rule says of a claim, and what it means when it decides.
type Rule = (fn(&Claim) -> Option<bool>, &'static str);

/// Rules, the strongest first. Each says of a claim whether it is one of the better (`true`) or
/// of the worse; where there are both, the worse are out. `None` is out of neither.
const RULES: [Rule; 4] = [
    (
        |claim| claim.given_here,
        "this node's container runtime gave it to no other",
    ),
    (
        |claim| claim.in_node_range,
        "it is in the podCIDRs of that pod's node and not in those of the others'",
    ),
    (
        |claim| Some(!claim.terminating),
        "the others are being deleted",
    ),
    (
        |claim| claim.node_ready,
        "the nodes of the others are not ready",
    ),
];

/// What keeps a decision from being made that the rules would make.
const UNMESHED: &str = "one of them is in the mesh, and to take it for that of one that is not \
                        could send plaintext";

/// Decides whose an address is that all of these claim.
pub(super) fn decide(claims: &[Claim]) -> Decision {
    let given = claims
        .iter()
        .position(|claim| claim.given_here == Some(true));
    let others_given = claims.iter().filter(|it| it.given_here == Some(true));
    if let Some(owner) = given.filter(|_| others_given.count() == 1) {
        return Decision::Owner(owner, "this node's container runtime gave it to that pod");
    }
    let mut left: Vec<usize> = (0..claims.len()).collect();
    let mut because = None;
    for (rule, why) in RULES {
        let better = |i: &usize| rule(&claims[*i]);
        // What this node refutes is out by itself: it needs no better one.
        let refuted = |i: &usize| claims[*i].given_here == Some(false);
        let some_better = left.iter().any(|i| better(i) == Some(true));
        let before = left.len();
        left.retain(|i| !(refuted(i) || (some_better && better(i) == Some(false))));
        if left.len() < before {
            because = Some(why);
        }
        if left.len() <= 1 {
            break;
        }
    }
    let (&[owner], Some(because)) = (&left[..], because) else {
        return Decision::Disputed(None);
    };
    let real = |claim: &&Claim| claim.given_here != Some(false);
    let some_meshed = claims.iter().filter(real).any(|claim| claim.meshed);
    match claims[owner].meshed || !some_meshed {
        true => Decision::Owner(owner, because),
        false => Decision::Disputed(Some(UNMESHED)),
    }
}

/// What is known of the nodes, for the evidence.
pub(super) struct Nodes<'a> {
    by_name: BTreeMap<&'a str, KnownNode>,
}

struct KnownNode {
    pod_cidrs: Vec<IpBlock>,
    ready: Option<bool>,
}

impl<'a> Nodes<'a> {
    pub(super) fn new(sources: &[&'a Objects]) -> Self {
        let nodes = sources.iter().flat_map(|objects| &objects.nodes);
        let by_name = nodes.map(|node| {
            let node = &node.object;
            (name(&node.metadata), KnownNode::new(node))
        });
        Self {
            by_name: by_name.collect(),
        }
    }

    /// The claim of a pod to an address; `here` is the node of this agent.
    pub(super) fn claim(&self, pod: &Pod, meshed: bool, ip: IpAddr, here: &str) -> Claim {
        let node = self.by_name.get(&*pod.node);
        let given = match &pod.place {
            Place::Seen(Some(seen)) if *pod.node == *here && !seen.addresses.is_empty() => {
                Some(seen.addresses.contains(&ip))
            }
            _ => None,
        };
        let range = node.map(|node| &node.pod_cidrs[..]).unwrap_or_default();
        let of_family = |block: &&IpBlock| block.is_ipv4() == ip.is_ipv4();
        let known = range.iter().any(|block| of_family(&block));
        Claim {
            meshed,
            given_here: given,
            in_node_range: known.then(|| range.iter().any(|block| block.contains(ip))),
            terminating: pod.terminating,
            // A node without its object is a lost one, unless none has any.
            node_ready: match node {
                Some(node) => node.ready,
                None => (!self.by_name.is_empty()).then_some(false),
            },
        }
    }
}

impl KnownNode {
    fn new(node: &Node) -> Self {
        let spec = node.spec.as_ref();
        let several = spec.and_then(|spec| spec.pod_cidrs.as_ref());
        let single = spec.and_then(|spec| spec.pod_cidr.as_ref());
        let texts = several.into_iter().flatten().chain(single);
        let conditions = node.status.as_ref();
        let conditions = conditions.and_then(|status| status.conditions.as_ref());
        let mut conditions = conditions.into_iter().flatten();
        let ready = conditions.find(|condition| condition.type_ == "Ready");
        Self {
            pod_cidrs: texts.filter_map(|text| IpBlock::new(text).ok()).collect(),
            ready: ready.map(|condition| condition.status == "True"),
        }
    }
}

#[cfg(test)]
mod tests;
