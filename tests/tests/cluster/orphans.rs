//! Pods whose object is gone or stale while the node that runs them is cut off from the API.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use isthmus_tests::cluster::{Apps, Cluster, Namespace, Node};
use isthmus_tests::process;
use isthmus_tests::wait::{patience, until};
use serde_json::Value;

use crate::disruption::{self, Stopped};
use crate::policies::STRICT;

/// The state in which the node's agent has a pod; asked by its socket, without the kubelet.
fn state(node: &Node, namespace: &Namespace<'_>, pod: &str) -> Result<Option<Value>> {
    let all = disruption::agent(node, "workloads")?;
    let all = all.as_array().context("a list of workloads")?;
    let of = |it: &&Value| it["namespace"] == namespace.name() && it["name"] == pod;
    Ok(all.iter().find(of).map(|it| it["state"].clone()))
}

fn wait_state(
    node: &Node,
    namespace: &Namespace<'_>,
    pod: &str,
    wanted: Option<&str>,
) -> Result<()> {
    let wanted = wanted.map(Value::from);
    until(
        &format!("{pod} is {wanted:?} on {}", node.name()),
        patience(120),
        || Ok((state(node, namespace, pod)? == wanted).then_some(())),
        || format!("{:?}", state(node, namespace, pod)),
    )
}

/// Plaintext from the node itself.
fn plaintext(node: &Node, to: SocketAddr) -> Result<Value> {
    let traffic = process::own_program("traffic")?;
    let traffic = traffic.to_str().context("a path in UTF-8")?;
    let text = node.run(&[traffic, "connect", &to.to_string(), "--send", "x"])?;
    Ok(serde_json::from_str(&text)?)
}

#[test]
fn force_deleted_pod_stays_closed_while_its_processes_run() -> Result<()> {
    let cluster = Cluster::alone_with_mesh()?;
    let namespace = cluster.meshed("forced")?;
    namespace.run(&Apps::new().server("server", "n2", "serve echo").and(STRICT))?;
    let [_, node] = cluster.nodes();
    wait_state(&node, &namespace, "server", Some("enrolled"))?;
    let agent = cluster.agent("n2")?;
    agent.wait_mode(namespace.name(), "server", "STRICT")?;
    let to = SocketAddr::new(namespace.address("server", 4)?, 8080);
    let refused = |seen: &Value| {
        let errno = seen["errno"].as_str().unwrap_or_default();
        ["ECONNREFUSED", "ECONNRESET"].contains(&errno) && seen["read"] != "x\n"
    };
    let seen = plaintext(&node, to)?;
    ensure!(refused(&seen), "before: {seen}");

    let kubelet = Stopped::stop(&cluster, "n2/kubelet")?;
    namespace.kubectl(&["delete", "pod/server", "--force", "--grace-period=0"])?;
    wait_state(&node, &namespace, "server", Some("orphaned"))?;
    let seen = plaintext(&node, to)?;
    ensure!(refused(&seen), "after the deletion: {seen}");
    let problems = disruption::agent(&node, "problems")?.to_string();
    ensure!(problems.contains("its processes run"), "{problems}");
    // Its kubelet ends it.
    kubelet.back()?;
    wait_state(&node, &namespace, "server", None)
}

#[test]
fn stale_terminating_pod_keeps_no_address_from_its_next_owner() -> Result<()> {
    let cluster = Cluster::alone_with_mesh()?;
    let namespace = cluster.meshed("stale")?;
    namespace.run(
        &Apps::new()
            .client("client", "n1")
            .server("living", "n1", "serve echo")
            .client("stale", "n2"),
    )?;
    let [n1, n2] = cluster.nodes();
    for (node, pod) in [(&n1, "client"), (&n1, "living"), (&n2, "stale")] {
        wait_state(node, &namespace, pod, Some("enrolled"))?;
    }
    let ip = namespace.address("living", 4)?;
    let kubelet = Stopped::stop(&cluster, "n2/kubelet")?;
    namespace.kubectl(&["delete", "pod/stale", "--wait=false"])?;
    claim(&namespace, "stale", ip)?;
    let counts = || -> Result<bool> {
        let problems = disruption::agent(&n1, "problems")?.to_string();
        let living = format!("counts as that of Pod {}/living", namespace.name());
        Ok(problems.contains(&living))
    };
    until(
        "the agent has seen both claims",
        patience(60),
        || Ok(counts()?.then_some(())),
        || format!("{:?}", disruption::agent(&n1, "problems")),
    )?;
    let seen = namespace.traffic("client", &format!("connect {ip}:8080 --send x"))?;
    ensure!(
        seen["read"] == "x\n",
        "the living pod is not reached: {seen}"
    );
    kubelet.back()
}

/// Has a pod's status claim an address, as the pod of a lost node does whose address is another's
/// by now.
fn claim(namespace: &Namespace<'_>, pod: &str, ip: IpAddr) -> Result<()> {
    let status =
        format!("{{\"status\": {{\"podIP\": \"{ip}\", \"podIPs\": [{{\"ip\": \"{ip}\"}}]}}}}");
    let words = ["patch", "--subresource=status", "--type=merge", "--patch"];
    let pod = format!("pod/{pod}");
    namespace
        .kubectl(&[&words[..], &[&status, &pod]].concat())
        .map(drop)
}
