//! What the nodes say of themselves.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Node, NodeSystemInfo};

use super::super::check::Finding;
use crate::install::Platform;

/// The oldest kernel that the programs are made for and tested on.
const KERNEL: (u32, u32) = (6, 1);
/// Processors that there is an image for.
const PROCESSORS: [&str; 2] = ["amd64", "arm64"];
/// Nodes that are named, of many with the same fault.
const NAMED: usize = 5;

pub(super) fn findings(nodes: &[Node]) -> Vec<Finding> {
    // The DaemonSet keeps to these.
    let infos: Vec<(&str, &NodeSystemInfo)> = nodes
        .iter()
        .filter_map(|node| {
            let info = node.status.as_ref()?.node_info.as_ref()?;
            let name = node.metadata.name.as_deref().unwrap_or_default();
            (info.operating_system == "linux").then_some((name, info))
        })
        .collect();
    let runtimes: BTreeSet<&str> = infos
        .iter()
        .map(|(_, info)| info.container_runtime_version.as_str())
        .collect();
    let runtimes: Vec<&str> = runtimes.into_iter().collect();
    vec![
        Finding {
            name: "nodes".to_owned(),
            ok: !infos.is_empty(),
            required: true,
            detail: format!("{} with Linux; platform {}", infos.len(), Platform::of(nodes)),
            cure: "add a node: the agents run on all that have Linux".to_owned(),
        },
        all(
            "kernels",
            &infos,
            |info| version(&info.kernel_version).is_some_and(|it| it >= KERNEL),
            |info| &info.kernel_version,
            "upgrade these nodes to Linux 6.1 or later",
        ),
        all(
            "processors",
            &infos,
            |info| PROCESSORS.contains(&info.architecture.as_str()),
            |info| &info.architecture,
            "the agent is built for amd64 and arm64: keep its pods off these nodes by an affinity",
        ),
        Finding {
            name: "runtime".to_owned(),
            // Other runtimes are not CRI, or make network namespaces in places of their own.
            ok: runtimes.iter().all(|it| {
                it.starts_with("containerd://") || it.starts_with("cri-o://")
            }),
            required: false,
            detail: runtimes.join(", "),
            cure: "the mesh is made for containerd and CRI-O; with others, see that pods are enrolled \
                   (mesh-agent workloads)"
                .to_owned(),
        },
    ]
}

/// One finding about all nodes, which names those that fail.
fn all(
    name: &str,
    infos: &[(&str, &NodeSystemInfo)],
    is_good: impl Fn(&NodeSystemInfo) -> bool,
    value: impl Fn(&NodeSystemInfo) -> &str,
    cure: &str,
) -> Finding {
    let bad: Vec<String> = infos
        .iter()
        .filter(|(_, info)| !is_good(info))
        .map(|(node, info)| format!("{node} has {}", value(info)))
        .collect();
    let good: BTreeSet<&str> = infos.iter().map(|(_, info)| value(info)).collect();
    Finding {
        name: name.to_owned(),
        ok: bad.is_empty(),
        required: true,
        detail: match bad.len() {
            0 => good.into_iter().collect::<Vec<_>>().join(", "),
            n if n > NAMED => format!("{}, and {} more", bad[..NAMED].join(", "), n - NAMED),
            _ => bad.join(", "),
        },
        cure: cure.to_owned(),
    }
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, kernel: &str, architecture: &str, kubelet: &str) -> Node {
        let info = json!({
            "architecture": architecture, "bootID": "", "containerRuntimeVersion": "containerd://1.7.1",
            "kernelVersion": kernel, "kubeProxyVersion": "", "kubeletVersion": kubelet,
            "machineID": "", "operatingSystem": "linux", "osImage": "", "systemUUID": "",
        });
        let node = json!({"metadata": {"name": name}, "status": {"nodeInfo": info}});
        serde_json::from_value(node).unwrap()
    }

    #[test]
    fn nodes_that_cannot_run_the_agent_are_named() {
        let nodes = [
            node("new", "6.1.0-13-cloud-amd64", "amd64", "v1.33.1"),
            node("old", "5.15.0-105-generic", "amd64", "v1.33.1"),
            node("other", "6.12.1", "s390x", "v1.33.1"),
        ];
        let findings = findings(&nodes);
        let of = |name: &str| findings.iter().find(|it| it.name == name).unwrap();
        assert!(of("nodes").ok && of("runtime").ok);
        assert_eq!(of("kernels").detail, "old has 5.15.0-105-generic");
        assert_eq!(of("processors").detail, "other has s390x");
        assert!(!of("kernels").ok && !of("processors").ok);
    }

    #[test]
    fn good_nodes_have_nothing_missing() {
        let nodes = [
            node("a", "6.1.0", "arm64", "v1.36.3"),
            node("b", "7.0.1", "amd64", "x"),
        ];
        assert!(findings(&nodes).iter().all(|it| it.ok));
        assert!(!findings(&[])[0].ok, "a cluster without nodes");
    }

    #[test]
    fn the_platform_is_the_nodes_word() {
        let of = |kubelet| Platform::of(&[node("a", "6.1.0", "amd64", kubelet)]);
        assert_eq!(of("v1.33.1+k3s1"), Platform::K3s);
        assert_eq!(of("v1.33.1-eks-7f9249a"), Platform::Eks);
        assert_eq!(of("v1.33.1-gke.1107000"), Platform::Gke);
        assert_eq!(of("v1.36.3"), Platform::Generic);
        let kind: Node = serde_json::from_value(json!({
            "metadata": {"name": "kind-worker"},
            "spec": {"providerID": "kind://docker/kind/kind-worker"},
            "status": node("a", "6.1.0", "amd64", "v1.33.1").status,
        }))
        .unwrap();
        assert_eq!(Platform::of(&[kind]), Platform::Kind);
    }
}
