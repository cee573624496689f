//! Where this node stands, for what is to stay near: its name, and its zone by its Node
//! object. Asked once for each generation by [`services`](super::services).

use k8s_openapi::api::core::v1::Node;

use super::super::build::unique;
use super::super::object::{Objects, name};
use super::super::problem::Problem;

/// The zone of a node, as in Kubernetes.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Where the agent runs.
pub(super) struct Place<'a> {
    /// The node's name.
    pub(super) node: &'a str,
    /// Its zone, if it is known.
    pub(super) zone: Option<&'a str>,
}

/// The place of `node`.
pub(super) fn of<'a>(
    sources: &[&'a Objects],
    node: &'a str,
    problems: &mut Vec<Problem>,
) -> Place<'a> {
    let nodes = sources.iter().flat_map(|objects| &objects.nodes);
    let named = |node: &Node| name(&node.metadata).to_owned();
    let nodes = unique(nodes, "Node", |node| name(&node.metadata), named, problems);
    let metas = nodes.into_iter().map(|node| &node.object.metadata);
    let labels = metas
        .filter(|meta| name(meta) == node)
        .find_map(|meta| meta.labels.as_ref());
    let zone = labels.and_then(|labels| labels.get(ZONE_LABEL));
    let zone = zone.map(String::as_str).filter(|zone| !zone.is_empty());
    Place { node, zone }
}
