//! Policies that select no workload of the folder. A folder without workloads, of
//! policies alone, says nothing about that.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::Offline;
use crate::model::{LabelSelector, Origin, Problem, Workload, World, namespace};

pub(super) fn check(folder: &Offline, found: &mut Vec<Problem>) {
    let world = &folder.loaded.world;
    if world.workloads().next().is_none() {
        return;
    }
    let mut look = |kind: &str, meta: &_, selector: Option<&LabelSelector>, origin: &Origin| {
        let none = BTreeMap::new();
        let labels = selector.map_or(&none, |selector| &selector.match_labels);
        let of = namespace(meta);
        let problem = |field: &str, message: String, cure: &str| {
            let object = format!("{kind} {}", crate::model::key(meta));
            Problem::new(origin, object, field, message, cure).into_warning()
        };
        let selected: Vec<_> = selected(world, of, labels).collect();
        let field = match labels.is_empty() {
            true => "metadata.namespace",
            false => "spec.selector.matchLabels",
        };
        if selected.is_empty() {
            let message = match labels.is_empty() {
                true => format!("there is no workload in namespace {of}: it holds for nothing"),
                false => format!("no workload has {}: it holds for nothing", shown(labels)),
            };
            found.push(problem(field, message, "correct it, or remove the policy"));
        } else if selected.iter().all(|workload| !workload.meshed) {
            let message = "it selects only workloads outside the mesh, which enforce nothing";
            found.push(problem(
                field,
                message.to_owned(),
                "bring them into the mesh with the label isthmus.dev/mesh: enabled",
            ));
        }
    };
    for it in folder
        .sources
        .iter()
        .flat_map(|it| &it.authorization_policies)
    {
        let spec = &it.object.spec;
        // With targets, who is missing is the model's to say.
        if spec.targets().next().is_none() {
            let selector = spec.selector.as_ref();
            look(
                "AuthorizationPolicy",
                &it.object.metadata,
                selector,
                &it.origin,
            );
        }
    }
    for it in folder
        .sources
        .iter()
        .flat_map(|it| &it.peer_authentications)
    {
        let selector = it.object.spec.selector.as_ref();
        look(
            "PeerAuthentication",
            &it.object.metadata,
            selector,
            &it.origin,
        );
    }
}

fn selected<'a>(
    world: &'a World,
    namespace: &'a str,
    labels: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = &'a Arc<Workload>> {
    let of_all = namespace == world.mesh().root_namespace;
    world.workloads().filter(move |workload| {
        let mut wanted = labels.iter();
        (of_all || *workload.namespace == *namespace)
            && wanted.all(|(key, value)| workload.labels.get(key) == Some(value))
    })
}

fn shown(labels: &BTreeMap<String, String>) -> String {
    let shown: Vec<_> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    shown.join(",")
}
