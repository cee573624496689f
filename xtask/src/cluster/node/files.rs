//! What lies on a node's disk before it is first switched on: settings of containerd, kubelet
//! and the network plugin, and the plugins themselves.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::super::images::PAUSE;
use super::super::place::{Node, Place};
use super::DNS;

/// Where Debian puts the plugins, and those that the cluster uses.
const PLUGINS: (&str, [&str; 5]) = (
    "/usr/lib/cni",
    ["bridge", "host-local", "loopback", "portmap", "ptp"],
);

pub(super) fn write(place: &Place, node: Node) -> Result<()> {
    let disk = place.disk(node)?;
    for folder in [
        "etc/cni/net.d",
        "etc/containerd",
        "etc/kubernetes",
        "etc-work",
        "opt/cni/bin",
        "opt/kubernetes",
        "var-lib/kubelet",
        "var-lib/isthmus",
        "var-log",
    ] {
        let folder = disk.join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let (folder, names) = PLUGINS;
    for name in names {
        let from = Path::new(folder).join(name);
        fs::copy(&from, disk.join("opt/cni/bin").join(name))
            .with_context(|| format!("copying {}", from.display()))?;
    }
    for (user, name) in [(node.name().as_str(), "kubelet"), ("proxy", "proxy")] {
        fs::copy(
            place.file(format!("{user}.kubeconfig"))?,
            disk.join(format!("etc/kubernetes/{name}.kubeconfig")),
        )
        .with_context(|| format!("copying the kubeconfig of {user}"))?;
    }
    for (file, text) in [
        ("etc/cni/net.d/10-bridge.conflist", network(node)),
        ("etc/containerd/config.toml", containerd()),
        ("etc/kubernetes/kubelet.yaml", kubelet(node)),
        (
            "etc/hosts",
            format!(
                "127.0.0.1 localhost\n::1 localhost\n{} {}\n",
                node.address(),
                node.name()
            ),
        ),
        ("etc/hostname", node.name() + "\n"),
    ] {
        fs::write(disk.join(file), text).with_context(|| format!("writing {file}"))?;
    }
    Ok(())
}

fn network(node: Node) -> String {
    format!(
        r#"{{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {{
      "type": "bridge",
      "bridge": "cni0",
      "isGateway": true,
      "hairpinMode": true,
      "ipam": {{
        "type": "host-local",
        "ranges": [[{{"subnet": "{}"}}], [{{"subnet": "{}"}}]],
        "routes": [{{"dst": "0.0.0.0/0"}}, {{"dst": "::/0"}}]
      }}
    }},
    {{"type": "portmap", "capabilities": {{"portMappings": true}}}}
  ]
}}
"#,
        node.pods(),
        node.pods_v6()
    )
}

fn containerd() -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # Machines without CAP_SYS_RESOURCE may not lower the score.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
"#
    )
}

fn kubelet(node: Node) -> String {
    format!(
        r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {address}
# Only the cluster's own namespaces reach it.
authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}
authorization: {{mode: AlwaysAllow}}
cgroupDriver: cgroupfs
clusterDNS: ["{DNS}"]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
enforceNodeAllocatable: ["none"]
evictionHard: {{memory.available: "50Mi"}}
# Machines with hybrid cgroups have their controllers in v1.
failCgroupV1: false
failSwapOn: false
# The images come from no registry: one that was collected would never come back.
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
oomScoreAdj: 0
# The machine's own servers are out of the nodes' reach.
resolvConf: ""
"#,
        address = node.address()
    )
}
