//! The cluster's network: a bridge in the control plane's namespace, a namespace for each node,
//! routes between the pods' ranges.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::place::{CONTROL, CONTROL_V6, NODES, Node, Place};
use crate::command::Run;

/// Builds it.
pub(super) fn create(place: &Place) -> Result<()> {
    let control = place.control_netns();
    namespace(&control)?;
    ip(&control, "link add br0 type bridge forward_delay 0")?;
    address(&control, "br0", CONTROL, CONTROL_V6)?;
    for node in NODES {
        let netns = place.netns(node);
        namespace(&netns)?;
        let port = node.name();
        ip(
            &control,
            &format!("link add {port} type veth peer name eth0 netns {netns}"),
        )?;
        ip(&control, &format!("link set {port} master br0 up"))?;
        address(&netns, "eth0", &node.address(), &node.address_v6())?;
        ip(&netns, &format!("route add default via {CONTROL}"))?;
        ip(&netns, &format!("-6 route add default via {CONTROL_V6}"))?;
    }
    for node in NODES {
        routes_to_pods(&control, node)?;
        for other in NODES.into_iter().filter(|other| *other != node) {
            routes_to_pods(&place.netns(other), node)?;
        }
    }
    Ok(())
}

/// Takes it down. Interfaces go with their namespaces.
pub(super) fn remove(place: &Place) -> Result<()> {
    let names = NODES.map(|node| place.netns(node));
    for name in names.into_iter().chain([place.control_netns()]) {
        if Path::new("/run/netns").join(&name).exists() {
            Run::new("ip").words("netns del").arg(name).output()?;
        }
    }
    Ok(())
}

fn namespace(name: &str) -> Result<()> {
    Run::new("ip").words("netns add").arg(name).output()?;
    ip(name, "link set lo up")?;
    for key in [
        "net.ipv4.ip_forward",
        "net.ipv6.conf.all.forwarding",
        // Replies between pods of one bridge must pass kube-proxy's rules, too.
        "net.bridge.bridge-nf-call-iptables",
        "net.bridge.bridge-nf-call-ip6tables",
    ] {
        let file = Path::new("/proc/sys").join(key.replace('.', "/"));
        if fs::exists(file)? {
            Run::new("ip")
                .words("netns exec")
                .arg(name)
                .words(&format!("sysctl -qw {key}=1"))
                .output()?;
        }
    }
    Ok(())
}

fn address(netns: &str, device: &str, v4: &str, v6: &str) -> Result<()> {
    ip(netns, &format!("addr add {v4}/24 dev {device}"))?;
    ip(netns, &format!("addr add {v6}/64 dev {device} nodad"))?;
    ip(netns, &format!("link set {device} up"))
}

fn routes_to_pods(netns: &str, node: Node) -> Result<()> {
    ip(
        netns,
        &format!("route add {} via {}", node.pods(), node.address()),
    )?;
    ip(
        netns,
        &format!("-6 route add {} via {}", node.pods_v6(), node.address_v6()),
    )
}

fn ip(netns: &str, words: &str) -> Result<()> {
    Run::new("ip")
        .arg("-n")
        .arg(netns)
        .words(words)
        .output()
        .map(drop)
}
