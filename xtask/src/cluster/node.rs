//! A node: a machine made of namespaces. Its first process holds them all; the end of that
//! process is the end of the node and of everything on it, as when a machine loses power.

mod boot;
mod files;

use std::path::Path;

use anyhow::{Context, Result};

use super::place::{CONTROL, Node, PODS, Place};
use super::service::{Machine, Service, enter};
use super::{cgroups, step};
use crate::command::Run;

pub(super) use boot::{boot, first_process};

/// Where a node finds the Kubernetes programs.
const KUBERNETES: &str = "/opt/kubernetes";

/// Makes the node's disk.
pub(super) fn prepare(place: &Place, node: Node) -> Result<()> {
    files::write(place, node)
}

/// Switches the node on: its namespaces and file systems, nothing in it yet.
pub(super) fn switch_on(place: &Place, node: Node) -> Result<()> {
    let cgroup = place.cgroup().join(node.name());
    cgroups::create(&cgroup)?;
    Run::new(std::env::current_exe()?)
        .words("cluster boot --name")
        .arg(place.name())
        .arg("--node")
        .arg(node.name())
        .output()
        .with_context(|| format!("starting the node {}", node.name()))?;
    cgroups::delegate_below(&cgroup)
}

/// Cuts its power.
pub(super) fn switch_off(place: &Place, node: Node) -> Result<()> {
    let cgroup = place.cgroup().join(node.name());
    cgroups::kill(&cgroup)?;
    cgroups::remove(&cgroup)
}

/// Switches it off and on, with all that runs on it. Its pods' interfaces end with their
/// namespaces; the network between the nodes stays.
pub(super) fn reboot(place: &Place, node: Node) -> Result<()> {
    step(&format!("switching {} off and on", node.name()), || {
        switch_off(place, node)?;
        forget_network(place, node)?;
        switch_on(place, node)
    })?;
    step(&format!("starting what runs on {}", node.name()), || {
        for service in services(node) {
            service.start(place)?;
            if service.name.ends_with("/containerd") {
                wait_for_containerd(place, node)?;
            }
        }
        Ok(())
    })
}

/// What a machine's network forgets when it goes off, but a namespace of this machine does not:
/// the pods' bridge, and the rules of kube-proxy.
fn forget_network(place: &Place, node: Node) -> Result<()> {
    let netns = place.netns(node);
    let inside = |words: &str| {
        Run::new("ip")
            .words("netns exec")
            .arg(&netns)
            .words(words)
            .output()
            .map(drop)
    };
    if Run::new("ip")
        .arg("-n")
        .arg(&netns)
        .words("link show cni0")
        .succeeds()
    {
        inside("ip link del cni0")?;
    }
    for program in ["iptables", "ip6tables"] {
        for table in ["nat", "filter", "mangle"] {
            inside(&format!("{program} -t {table} -F"))?;
            inside(&format!("{program} -t {table} -X"))?;
        }
    }
    Ok(())
}

/// Waits until containerd answers.
pub(super) fn wait_for_containerd(place: &Place, node: Node) -> Result<()> {
    super::until(&format!("containerd of {} answers", node.name()), || {
        Ok(ctr(place, node)?.arg("version").succeeds())
    })
}

/// Loads an archive of images.
pub(super) fn load(place: &Place, node: Node, archive: &Path) -> Result<()> {
    // The node may not see the archive's folder, so it comes through a pipe.
    let process = place.first_process(node)?;
    Run::new("sh")
        .arg("-c")
        .arg("nsenter --target \"$0\" --mount --net --ipc --pid -- ctr --namespace k8s.io images import - < \"$1\"")
        .arg(process.to_string())
        .arg(archive)
        .output()
        .map(drop)
        .with_context(|| format!("loading {} on {}", archive.display(), node.name()))
}

fn ctr(place: &Place, node: Node) -> Result<Run> {
    Ok(enter(place, node)?.words("ctr --namespace k8s.io"))
}

/// containerd comes first: kubelet waits for it, but complains.
pub(super) fn services(node: Node) -> Vec<Service> {
    let service = |name: &str, command: &[&str]| Service {
        name: format!("{}/{name}", node.name()),
        machine: Machine::Node(node),
        command: command.iter().map(|&word| word.to_owned()).collect(),
    };
    vec![
        service("containerd", &["containerd"]),
        service(
            "kubelet",
            &[
                &format!("{KUBERNETES}/kubelet"),
                "--config=/etc/kubernetes/kubelet.yaml",
                "--kubeconfig=/etc/kubernetes/kubelet.kubeconfig",
                &format!("--hostname-override={}", node.name()),
                &format!("--node-ip={},{}", node.address(), node.address_v6()),
            ],
        ),
        service(
            "kube-proxy",
            &[
                &format!("{KUBERNETES}/kube-proxy"),
                "--kubeconfig=/etc/kubernetes/proxy.kubeconfig",
                &format!("--hostname-override={}", node.name()),
                "--proxy-mode=iptables",
                // It may not raise the machine's limits, and need not.
                "--conntrack-max-per-core=0",
                "--conntrack-min=0",
                &format!("--cluster-cidr={PODS}"),
            ],
        ),
    ]
}

/// The address of DNS, as kubelets hand it to pods.
const DNS: &str = CONTROL;
