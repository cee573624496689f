//! The objects of a large cluster, about as large as real ones: a pod of the API is some three
//! kilobytes, of which the mesh needs two hundred bytes.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// Pods of one Deployment, behind one Service each.
pub(crate) const REPLICAS: u32 = 10;
/// Accounts of each namespace.
pub(crate) const ACCOUNTS: u32 = 4;

pub(crate) fn namespace(i: u32) -> Value {
    // Half of them are in the mesh.
    let mesh = if i.is_multiple_of(2) {
        "enabled"
    } else {
        "disabled"
    };
    named_namespace(&namespace_name(i), mesh)
}

pub(crate) fn named_namespace(name: &str, mesh: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace",
           "metadata": {"name": name, "labels": {"isthmus.dev/mesh": mesh}}})
}

pub(crate) fn namespace_name(i: u32) -> String {
    format!("team-{i}")
}

pub(crate) fn account(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
}

pub(crate) fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node",
           "metadata": {"name": name, "labels": {
               "topology.kubernetes.io/zone": "a", "kubernetes.io/hostname": name,
               "node.kubernetes.io/instance-type": "large"}}})
}

/// Which pod, and where it is.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) pod: u32,
    pub(crate) namespaces: u32,
    pub(crate) nodes: u32,
}

impl Place {
    fn app(self) -> u32 {
        self.pod / REPLICAS
    }

    pub(crate) fn namespace(self) -> String {
        namespace_name(self.app() % self.namespaces)
    }

    pub(crate) fn name(self) -> String {
        format!("app-{}-7d4b9c6f5d-{:05}", self.app(), self.pod)
    }

    pub(crate) fn node(self) -> String {
        format!("node-{}", self.pod % self.nodes)
    }

    pub(crate) fn address(self) -> Ipv4Addr {
        // 10.128.0.0/9, which nothing else here has.
        Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 1)) + self.pod)
    }
}

pub(crate) fn pod(at: Place) -> Value {
    let app = format!("app-{}", at.app());
    let account = format!("account-{}", at.app() % ACCOUNTS);
    pod_of(&at.name(), &app, &account, &at.node())
}

pub(crate) fn pod_of(name: &str, app: &str, account: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {
                "app.kubernetes.io/name": app, "app.kubernetes.io/version": "1.4.2",
                "app.kubernetes.io/part-of": "platform", "pod-template-hash": "7d4b9c6f5d"},
            "annotations": {
                "prometheus.io/scrape": "true", "prometheus.io/port": "9090",
                "checksum/config": "8f14e45fceea167a5a36dedd4bea2543f1f8b3a1c2d4e5f60718293a4b5c6d7e"},
        },
        "spec": {
            "nodeName": node, "serviceAccountName": account,
            "containers": [{
                "name": "main", "image": "registry.example.com/platform/app:1.4.2",
                "args": ["--listen=:8080", "--log=json"],
                "ports": [{"name": "http", "containerPort": 8080}, {"name": "metrics", "containerPort": 9090}],
                "env": [{"name": "REGION", "value": "a"}, {"name": "DATABASE", "value": "postgres://db.platform.svc/app"},
                        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}},
                "livenessProbe": {"httpGet": {"path": "/alive", "port": 8080}},
            }],
        },
    })
}

pub(crate) fn status(address: Ipv4Addr) -> Value {
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    json!({"status": {
        "phase": "Running", "hostIP": "10.77.0.1", "podIP": address, "podIPs": [{"ip": address}],
        "startTime": "2026-01-01T00:00:00Z",
        "conditions": [condition("Initialized"), condition("Ready"), condition("ContainersReady"), condition("PodScheduled")],
        "containerStatuses": [{
            "name": "main", "ready": true, "restartCount": 0, "image": "registry.example.com/platform/app:1.4.2",
            "imageID": "registry.example.com/platform/app@sha256:8f14e45fceea167a5a36dedd4bea2543f1f8b3a1c2d4e5f60718293a4b5c6d7e",
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}],
    }})
}

pub(crate) fn service(i: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("app-{i}")},
        "spec": {"selector": {"app.kubernetes.io/name": format!("app-{i}")},
                 "ports": [{"name": "http", "port": 80, "targetPort": 8080},
                           {"name": "metrics", "port": 9090, "targetPort": 9090}]},
    })
}

/// All pods of the service's Deployment, ready.
pub(crate) fn slice(i: u32, namespaces: u32, nodes: u32) -> Value {
    let endpoints = (i * REPLICAS..(i + 1) * REPLICAS).map(|pod| {
        let at = Place {
            pod,
            namespaces,
            nodes,
        };
        json!({
            "addresses": [at.address()], "nodeName": at.node(), "zone": "a",
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": at.namespace(), "name": at.name()},
        })
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("app-{i}-x7k2p"), "labels": {"kubernetes.io/service-name": format!("app-{i}")}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "metrics", "port": 9090, "protocol": "TCP"}],
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

pub(crate) fn policy(name: &str, app: &str) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app.kubernetes.io/name": app}},
            "rules": [{"from": [{"source": {"namespaces": ["team-0", "team-2"]}}],
                       "to": [{"operation": {"ports": ["8080"]}}]}],
        },
    })
}
