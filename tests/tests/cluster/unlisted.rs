//! Decisions about unknown things: addresses that no object has while the API server
//! is away, and a kind whose definition is removed.

use anyhow::{Context, Result, ensure};
use isthmus_tests::cluster::{Apps, Cluster, Namespace, Node};
use isthmus_tests::process;
use isthmus_tests::wait::{patience, until};
use serde_json::Value;
use std::process::Command;

use crate::disruption::Stopped;

const PEERS: &str = "peerauthentications.security.istio.io";

/// What the node's agent explains of a connection, asked by its socket.
fn explain(node: &Node, from: &str, to: &str) -> Result<Value> {
    let mut ask = Command::new(process::own_program("mesh-agent")?);
    ask.args(["explain", "--from", from, "--to", to, "--output", "json"])
        .arg("--run-dir")
        .arg(node.path("/run/isthmus")?);
    let answer = process::run(ask)?.success()?;
    serde_json::from_str(&answer).context("an explanation")
}

/// The verdict of the pod's own agent.
fn source_of(explained: &Value) -> &Value {
    &explained["ways"][0]["source"]
}

/// An address of another node's pods that none of them has.
fn free_address(cluster: &Cluster) -> Result<String> {
    let range = "--output=jsonpath={.spec.podCIDRs[0]}";
    let range = cluster.kubectl(&["get", "node/n2", range])?;
    let (network, _) = range.split_once('/').context("a range of pods")?;
    let (start, _) = network.rsplit_once('.').context("an IPv4 range")?;
    Ok(format!("{start}.250:8080"))
}

/// What the pod `asks` has printed last: one answer of `traffic connect` a line.
fn last_errno(namespace: &Namespace, node: &Node) -> Result<Option<String>> {
    let file = log_file(node, namespace.name())?;
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut lines = text.lines().rev();
    Ok(lines.find_map(|line| {
        let own = line.splitn(4, ' ').nth(3)?;
        let answer: Value = serde_json::from_str(own).ok()?;
        Some(answer["errno"].as_str().unwrap_or("none").to_owned())
    }))
}

/// Where the output of the pod `asks` is.
fn log_file(node: &Node, namespace: &str) -> Result<std::path::PathBuf> {
    let pods = node.path("/var/log/pods")?;
    let prefix = format!("{namespace}_asks_");
    let folders = std::fs::read_dir(&pods)?.filter_map(Result::ok);
    let mut folders = folders.map(|it| it.path());
    let of_pod = |it: &std::path::PathBuf| {
        let name = it.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with(&prefix)
    };
    let folder = folders.find(of_pod).context("the pod's logs")?;
    Ok(folder.join("main/0.log"))
}

#[test]
fn unlisted_address_is_refused_while_the_api_server_is_away() -> Result<()> {
    let cluster = Cluster::alone_with_mesh()?;
    let namespace = cluster.meshed("unlisted")?;
    let to = free_address(&cluster)?;
    let script = format!("while true; do traffic connect {to}; sleep 1; done");
    let container = format!("command: [/bin/sh, -c, '{script}']");
    namespace.run(&Apps::new().pod("asks", "n1", &container, ""))?;
    cluster
        .agent("n1")?
        .wait_state(namespace.name(), "asks", "enrolled")?;
    let [node, _] = cluster.nodes();
    let from = format!("{}/asks", namespace.name());
    // The API server is there: nothing has the address, and that is certain.
    let healthy = explain(&node, &from, &to)?;
    ensure!(source_of(&healthy)["allowed"] == true, "{healthy:#}");
    let errno = last_errno(&namespace, &node)?;
    ensure!(errno.as_deref() != Some("ECONNRESET"), "{errno:?}");

    let api = Stopped::stop(&cluster, "api-server")?;
    let refused = until(
        "the address is refused",
        patience(60),
        || {
            let explained = explain(&node, &from, &to)?;
            Ok((source_of(&explained)["allowed"] == false).then_some(explained))
        },
        || format!("{:#?}", explain(&node, &from, &to)),
    )?;
    let source = source_of(&refused);
    ensure!(source["reason"] == "DESTINATION_UNKNOWN", "{refused:#}");
    let detail = source["detail"].as_str().unwrap_or_default();
    ensure!(
        detail.contains("the pods of Node n2") && detail.contains("disconnected for"),
        "{detail}"
    );
    until(
        "the application sees a reset",
        patience(60),
        || Ok((last_errno(&namespace, &node)?.as_deref() == Some("ECONNRESET")).then_some(())),
        || format!("{:?}", last_errno(&namespace, &node)),
    )?;
    // So is an address of the Services.
    let service = explain(&node, &from, "10.96.200.201:80")?;
    ensure!(
        source_of(&service)["reason"] == "DESTINATION_UNKNOWN",
        "{service:#}"
    );
    let outside = explain(&node, &from, "203.0.113.9:443")?;
    ensure!(source_of(&outside)["allowed"] == true, "{outside:#}");
    api.back()?;
    until(
        "the address counts as outside the mesh again",
        patience(120),
        || {
            let explained = explain(&node, &from, &to)?;
            Ok((source_of(&explained)["allowed"] == true).then_some(()))
        },
        || format!("{:#?}", explain(&node, &from, &to)),
    )
}

/// The definition comes back, whatever became of the test.
struct Definition<'a>(&'a Cluster);

impl Drop for Definition<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.install_mesh() {
            eprintln!("{PEERS} is not back: {error:#}");
        }
    }
}

#[test]
fn policies_of_a_definition_that_is_removed_are_in_force_no_longer() -> Result<()> {
    let cluster = Cluster::alone_with_mesh()?;
    let namespace = cluster.meshed("undefined")?;
    let waits = "command: [/bin/sleep, '1000000']";
    namespace.run(&Apps::new().pod("web", "n1", waits, ""))?;
    let strict = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict}
spec: {mtls: {mode: STRICT}}
";
    namespace.apply(strict)?;
    let agent = cluster.agent("n1")?;
    let wait = |mode: &str| agent.wait_mode(namespace.name(), "web", mode);
    wait("STRICT")?;
    let definition = Definition(&cluster);
    cluster.kubectl(&["delete", "customresourcedefinition", PEERS])?;
    wait("PERMISSIVE")?;
    drop(definition);
    namespace.apply(strict)?;
    // The agents look for kinds that are not installed once a minute.
    let mode = || -> Result<Value> {
        let web = agent.workload(namespace.name(), "web")?;
        Ok(web.context("the agent knows the pod")?["mode"].clone())
    };
    until(
        "the policy is in force again",
        patience(150),
        || Ok((mode()? == "STRICT").then_some(())),
        || format!("{:?}", mode()),
    )
}
