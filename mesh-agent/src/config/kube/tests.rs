//! The source against a server that does as it is told.

mod fake;
mod hearing;
mod incomplete;
mod objects;
mod outages;
mod ranges;
mod vanished;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::KubeSource;
use crate::config::Loaded;
use crate::node::Sandboxes;
use fake::Fake;

const NAMESPACES: &str = "/api/v1/namespaces";
const PODS: &str = "/api/v1/pods";
const MESH_CONFIGS: &str = "/apis/isthmus.dev/v1alpha1/meshconfigs";
const POLICIES: &str = "/apis/security.istio.io/v1/authorizationpolicies";

/// Longer than any wait of the source; the clock is a paused one.
const LONG: Duration = Duration::from_secs(300);

/// A source of a node, from a server with a namespace and two pods of another node.
async fn source(fake: &Fake) -> KubeSource {
    fake.put(NAMESPACES, namespace("shop", json!({})));
    fake.put(PODS, pod("web", "10.0.0.1"));
    fake.put(PODS, pod("db", "10.0.0.2"));
    open(fake).await
}

async fn open(fake: &Fake) -> KubeSource {
    let cgroups = tempfile::tempdir().unwrap();
    let sandboxes = Sandboxes::new(cgroups.path().to_owned());
    KubeSource::open(fake.client(), "node-a", Arc::clone(&sandboxes))
        .await
        .unwrap()
}

/// The first world for which `seen` holds.
async fn until(source: &mut KubeSource, seen: impl Fn(&Loaded) -> bool) -> Loaded {
    let found = tokio::time::timeout(LONG, async {
        loop {
            let loaded = source.changed().await;
            if seen(&loaded) {
                return loaded;
            }
        }
    });
    found.await.expect("it never came")
}

fn names(loaded: &Loaded) -> Vec<&str> {
    loaded.world.workloads().map(|it| &*it.name).collect()
}

fn is_meshed(loaded: &Loaded, uid: &str) -> bool {
    loaded.world.workload(uid).is_some_and(|it| it.meshed)
}

/// `object: field: message` of every problem.
fn complaints(loaded: &Loaded) -> Vec<String> {
    let problems = loaded.problems.iter();
    problems
        .map(|it| {
            let object = it.object.as_deref().unwrap_or_default();
            format!("{object}: {}: {}", it.field, it.message)
        })
        .collect()
}

fn namespace(name: &str, labels: Value) -> Value {
    json!({"metadata": {"name": name, "labels": labels}})
}

fn pod(name: &str, ip: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-of-{name}"),
            "managedFields": [{"manager": "kubelet"}]},
        "spec": {"nodeName": "node-b", "serviceAccountName": name, "containers": [{"name": "c"}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    })
}

fn policy(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "shop"}, "spec": spec,
    })
}
