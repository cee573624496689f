//! The YAML that a test's world is described by, as a person would write it.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::pod::{Pod, PodSpec};

/// The mode of `PeerAuthentication`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mtls {
    /// Plaintext is refused.
    Strict,
    /// Plaintext is relayed.
    Permissive,
}

/// One port of a Service.
#[derive(Debug, Clone, Copy)]
pub struct ServicePort {
    /// What clients ask for.
    pub port: u16,
    /// Where the pods listen.
    pub target: u16,
}

impl From<u16> for ServicePort {
    fn from(port: u16) -> Self {
        Self { port, target: port }
    }
}

pub(super) fn namespace(name: &str, meshed: bool) -> String {
    let labels = if meshed {
        "\n  labels:\n    isthmus.dev/mesh: enabled"
    } else {
        ""
    };
    format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}{labels}\n")
}

pub(super) fn pod(
    spec: &PodSpec,
    node: &str,
    addresses: &[IpAddr],
    netns: &str,
    cgroup: &str,
) -> String {
    let PodSpec {
        name,
        namespace,
        service_account,
        labels,
        annotations,
        ..
    } = spec;
    let labels: String = labels
        .iter()
        .map(|(key, value)| format!("\n    {key}: {value:?}"))
        .collect();
    let annotations: String = annotations
        .iter()
        .map(|(key, value)| format!("\n    {key}: {value:?}"))
        .collect();
    let mut yaml = format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {namespace}
  labels:{labels}
  annotations:
    isthmus.dev/netns: {netns}
    isthmus.dev/cgroup: {cgroup}{annotations}
spec:
  nodeName: {node}
  serviceAccountName: {service_account}
  containers: [{{name: main}}]
status:
  phase: Running
  podIPs:
"
    );
    for address in addresses {
        let _ = writeln!(yaml, "    - ip: {address:?}", address = address.to_string());
    }
    yaml
}

pub(super) fn service(
    name: &str,
    ips: &[IpAddr],
    ports: &[ServicePort],
    pods: &[(&Pod, bool)],
) -> String {
    let mut yaml = format!(
        "apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: default
spec:
  clusterIP: \"{first}\"
  clusterIPs: {ips:?}
  ports:
",
        first = ips[0],
        ips = ips.iter().map(ToString::to_string).collect::<Vec<_>>(),
    );
    for (n, ServicePort { port, target }) in ports.iter().enumerate() {
        let _ = writeln!(
            yaml,
            "    - {{name: port-{n}, port: {port}, targetPort: {target}, protocol: TCP}}"
        );
    }
    for family in ["IPv4", "IPv6"] {
        let _ = write!(
            yaml,
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-{suffix}
  namespace: default
  labels:
    kubernetes.io/service-name: {name}
addressType: {family}
ports:
",
            suffix = family.to_lowercase()
        );
        for (n, ServicePort { target, .. }) in ports.iter().enumerate() {
            let _ = writeln!(
                yaml,
                "  - {{name: port-{n}, port: {target}, protocol: TCP}}"
            );
        }
        yaml.push_str("endpoints:\n");
        for (pod, ready) in pods {
            for address in pod
                .addresses()
                .iter()
                .filter(|a| a.is_ipv4() == (family == "IPv4"))
            {
                let _ = writeln!(
                    yaml,
                    "  - {{addresses: [\"{address}\"], conditions: {{ready: {ready}}}}}"
                );
            }
        }
        if pods.is_empty() {
            yaml.truncate(yaml.len() - 1);
            yaml.push_str(" []\n");
        }
    }
    yaml
}

pub(super) fn peer_authentication(mode: Mtls) -> String {
    let mode = match mode {
        Mtls::Strict => "STRICT",
        Mtls::Permissive => "PERMISSIVE",
    };
    format!(
        "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: default
  namespace: istio-system
spec:
  mtls:
    mode: {mode}
"
    )
}
