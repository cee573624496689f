//! The kubelet's probes of STRICT pods: answered, and truthful; who is not the kubelet is refused.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use isthmus_tests::cluster::{Apps, Cluster, Namespace};
use isthmus_tests::wait::{self, patience};
use serde_json::Value;

use crate::policies::STRICT;

/// Each kind of probe in each role; one failure is the end of a container.
const PODS: [(&str, &str); 3] = [
    ("http", "httpGet: {path: /of-the-kubelet, port: 80}"),
    ("tcp", "tcpSocket: {port: 80}"),
    ("grpc", "grpc: {port: 9000}"),
];

/// With a pod of one of them.
fn probed(apps: Apps, (name, probe): (&str, &str)) -> Apps {
    let often = "periodSeconds: 1, timeoutSeconds: 10";
    let container = format!(
        "startupProbe: {{{probe}, {often}, failureThreshold: 30}}, \
         readinessProbe: {{{probe}, {often}}}, livenessProbe: {{{probe}, {often}}}"
    );
    apps.of_image("nginx", name, "n2", &container)
}

fn status(namespace: &Namespace<'_>, pod: &str) -> Result<Value> {
    Ok(namespace.get(&format!("pod/{pod}"))?["status"]["containerStatuses"][0].clone())
}

#[test]
fn probes_of_all_kinds_reach_strict_pods() -> Result<()> {
    let cluster = Cluster::with_mesh()?;
    let namespace = cluster.meshed("probes")?;
    namespace.apply(STRICT)?;
    let agent = cluster.agent("n2")?;
    namespace.run(&PODS.into_iter().fold(Apps::new(), probed))?;
    for (name, _) in PODS {
        agent.wait_state(namespace.name(), name, "enrolled")?;
        agent.wait_mode(namespace.name(), name, "STRICT")?;
    }
    // Thirty probes on: each pod was asked as often, by readiness and by liveness.
    wait::until(
        "the kubelet has asked often",
        patience(60),
        || {
            let told = namespace.logs("http")?;
            let asked = told.matches("GET /of-the-kubelet").count();
            Ok((asked >= 30).then_some(()))
        },
        || namespace.logs("http").unwrap_or_default(),
    )?;
    for (name, _) in PODS {
        let status = status(&namespace, name)?;
        ensure!(
            status["ready"] == true && status["restartCount"] == 0,
            "{name}: {status:#}"
        );
        let to = SocketAddr::new(namespace.address(name, 4)?, 80);
        stranger_is_refused(&cluster, to)?;
    }
    the_other_address_is_asked(&namespace)
}

/// Asks the other address of a pod, as the kubelet does where a probe names it.
fn the_other_address_is_asked(namespace: &Namespace<'_>) -> Result<()> {
    let six = namespace.address("http", 6)?;
    let probe = format!("httpGet: {{path: /of-the-other, port: 80, host: '{six}'}}");
    namespace.run(&probed(Apps::new(), ("six", &probe)))?;
    ensure!(
        namespace.logs("http")?.contains("GET /of-the-other"),
        "it was not asked at {six}"
    );
    Ok(())
}

/// A process of the node, with the kubelet's address and not in its cgroup.
fn stranger_is_refused(cluster: &Cluster, to: SocketAddr) -> Result<()> {
    let [_, node] = cluster.nodes();
    let traffic = isthmus_tests::process::own_program("traffic")?;
    let traffic = traffic.to_str().context("a path in UTF-8")?;
    let agent = cluster.agent("n2")?;
    let text = node.run(&[traffic, "connect", &to.to_string(), "--send", "GET /"])?;
    let seen: Value = serde_json::from_str(&text)?;
    ensure!(
        seen["errno"] == "ECONNRESET" && seen["read"].as_str().is_none_or(str::is_empty),
        "{seen}"
    );
    agent
        .wait_log("that it came in plaintext", |line| {
            line["reason"] == "PLAINTEXT_REFUSED" && line["dst"] == to.to_string()
        })
        .map(drop)
}

/// A server that is killed within a container that goes on is found out, though the agent listens
/// for it.
#[test]
fn a_server_that_fails_is_not_ready() -> Result<()> {
    let cluster = Cluster::with_mesh()?;
    let namespace = cluster.meshed("failing")?;
    namespace.apply(STRICT)?;
    let container = "command: [/bin/sh, -c, 'while ! [ -e /stopped ]; do traffic serve banner blue; \
                     done; sleep 1000000'], \
                     readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}";
    namespace.run(&Apps::new().pod("server", "n1", container, ""))?;
    namespace.exec(
        "server",
        &["sh", "-c", "touch /stopped; kill -9 $(pidof traffic)"],
    )?;
    namespace.wait("condition=Ready=false", "pod/server")?;
    let status = status(&namespace, "server")?;
    ensure!(
        status["restartCount"] == 0 && status["state"]["running"].is_object(),
        "{status:#}"
    );
    Ok(())
}
