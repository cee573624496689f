//! NetworkPolicies that shut the tunnels' port of pods that are, or are to be, in the mesh.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy as Object;
use kube::api::ListParams;
use kube::{Api, Client};

use super::super::check::Finding;
use super::super::install::ClusterError;
use crate::model::{NetworkPolicies, NetworkPolicy, asks_for_mesh, hbone_port_names};

/// Policies that the finding names.
const NAMED: usize = 5;

pub(super) async fn finding(client: &Client) -> Result<Finding, ClusterError> {
    let all = ListParams::default();
    let namespaces = Api::<Namespace>::all(client.clone()).list(&all).await;
    let namespaces = namespaces.map_err(ClusterError::asking("list the namespaces"))?;
    let policies = Api::<Object>::all(client.clone()).list(&all).await;
    let policies = policies.map_err(ClusterError::asking("list the NetworkPolicies"))?;
    let mut pods = Vec::new();
    // Pods of namespaces without NetworkPolicies cannot be shut.
    let concerned: BTreeSet<_> = policies
        .iter()
        .filter_map(|it| it.metadata.namespace.clone())
        .collect();
    for namespace in concerned {
        let in_namespace = Api::<Pod>::namespaced(client.clone(), &namespace)
            .list(&all)
            .await;
        pods.extend(
            in_namespace
                .map_err(ClusterError::asking("list the pods"))?
                .items,
        );
    }
    Ok(evaluate(&namespaces.items, policies.items, &pods))
}

fn evaluate(namespaces: &[Namespace], policies: Vec<Object>, pods: &[Pod]) -> Finding {
    let meshed: BTreeSet<&str> = namespaces
        .iter()
        .filter(|it| asks_for_mesh(it.metadata.labels.as_ref()) == Some(true))
        .filter_map(|it| it.metadata.name.as_deref())
        .collect();
    let policies = NetworkPolicies::of(
        policies
            .into_iter()
            .map(|it| Arc::new(NetworkPolicy::from(it))),
    );
    let mut shut: BTreeMap<String, usize> = BTreeMap::new();
    let none = BTreeMap::new();
    for pod in pods {
        let meta = &pod.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let labels = meta.labels.as_ref().unwrap_or(&none);
        let in_mesh = asks_for_mesh(Some(labels)).unwrap_or_else(|| meshed.contains(namespace));
        let spec = pod.spec.as_ref();
        if !in_mesh || spec.is_some_and(|it| it.host_network == Some(true)) {
            continue;
        }
        let ports = hbone_port_names(pod);
        let name = meta.name.as_deref().unwrap_or_default();
        let of_pod = policies.shut_of(namespace, name, labels, &ports);
        let names: BTreeSet<String> = of_pod
            .flat_map(|it| it.names().collect::<Vec<_>>())
            .collect();
        for name in names {
            *shut.entry(name).or_default() += 1;
        }
    }
    let count = shut.len();
    let shown = shut.iter().take(NAMED);
    let shown: Vec<String> = shown
        .map(|(name, pods)| format!("{name} ({pods} pods)"))
        .collect();
    Finding {
        name: "network policies".to_owned(),
        ok: shut.is_empty(),
        required: false,
        detail: match shut.is_empty() {
            true => "none shuts port 15008 of a pod of the mesh".to_owned(),
            false => format!(
                "{count} shut port 15008 of pods of the mesh: {}{}",
                shown.join(", "),
                if count > NAMED { ", ..." } else { "" }
            ),
        },
        cure: "allow TCP port 15008 beside the application's ports, ingress and egress: the mesh \
               reaches pods by it"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn pod(name: &str, labels: Value) -> Pod {
        read(json!({"metadata": {"name": name, "namespace": "shop", "labels": labels}}))
    }

    #[test]
    fn finding_names_policies_that_shut_pods_of_the_mesh() {
        let namespace = |labels: Value| -> Namespace {
            read(json!({"metadata": {"name": "shop", "labels": labels}}))
        };
        let policies = || {
            let of = |name: &str, port: u16| -> Object {
                read(
                    json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {
                    "podSelector": {"matchLabels": {"app": name}},
                    "ingress": [{"ports": [{"port": port}]}]}}),
                )
            };
            vec![of("db", 5432), of("web", 15008)]
        };
        let pods = [
            pod("db-0", json!({"app": "db"})),
            pod("db-1", json!({"app": "db"})),
            pod("out", json!({"app": "db", "isthmus.dev/mesh": "disabled"})),
            pod("web", json!({"app": "web"})),
        ];
        let meshed = namespace(json!({"isthmus.dev/mesh": "enabled"}));
        let found = evaluate(&[meshed], policies(), &pods);
        assert!(!found.ok && !found.required);
        assert!(
            found.detail.contains("1 shut") && found.detail.contains("shop/db (2 pods)"),
            "{}",
            found.detail
        );
        let outside = evaluate(&[namespace(json!({}))], policies(), &pods);
        assert!(outside.ok, "{}", outside.detail);
    }
}
