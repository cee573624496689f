//! A node that loses its power: its pods start again behind the gate.

use anyhow::{Context, Result, ensure};
use isthmus_tests::capture::Capture;
use isthmus_tests::cluster::{Apps, Cluster};
use isthmus_tests::wait::{patience, until};

use crate::disruption;

/// A client that connects all the time, also while the node comes up and its agent is not
/// there yet: none of it goes out in the clear, and then it goes through the mesh again.
#[test]
fn after_a_reboot_no_pod_sends_a_byte_outside_the_mesh() -> Result<()> {
    let cluster = Cluster::alone_with_mesh()?;
    // Not the authority's: it would take a while to certify the pods anew.
    let authority = disruption::system(
        &cluster,
        &[
            "get",
            "pods",
            "--selector=app.kubernetes.io/name=isthmus-ca",
            "--output=jsonpath={.items[0].spec.nodeName}",
        ],
    )?;
    let [one, other] = cluster.nodes();
    let (node, stays) = match one.name() == authority {
        true => (other, one),
        false => (one, other),
    };
    let namespace = cluster.meshed("power")?;
    let stays = stays.name();
    namespace.run(&Apps::new().server("server", stays, &format!("serve banner {stays}")))?;
    let to = namespace.address("server", 4)?;
    let client = disruption::flooding(&format!("{to}:8080={stays}"));
    namespace.run(&Apps::new().pod("client", node.name(), &client, ""))?;
    let right = |log: &str| {
        log.lines()
            .rfind(|line| line.starts_with("right"))
            .is_some()
    };
    until(
        "its connections arrive",
        patience(60),
        || Ok(right(&namespace.logs("client")?).then_some(())),
        || namespace.logs("client").unwrap_or_default(),
    )?;
    let before = disruption::agent(&node, "status")?;
    let capture = Capture::start(&cluster.bridge()?)?;
    cluster.reboot(&node)?;
    // It is another container, so this is another log.
    namespace.watch("pod/client", "it has been started again", |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        (status["restartCount"].as_u64()? > 0 && status["ready"] == true).then_some(())
    })?;
    until(
        "its connections arrive again",
        patience(120),
        || Ok(right(&namespace.logs("client")?).then_some(())),
        || cluster.mesh_logs(),
    )?;
    disruption::wait_enrolled(&cluster, &namespace, [1, 1])?;
    let after = disruption::agent(&node, "status")?;
    ensure!(
        after["uptime_s"].as_u64() < before["uptime_s"].as_u64() || before["pid"] != after["pid"],
        "it is the agent of before: {after:#}"
    );
    let seen = capture.stop()?;
    ensure!(
        !seen.contains(disruption::ANSWER),
        "an answer crossed the bridge in the clear"
    );
    let from = namespace.address("client", 4).context("its new address")?;
    ensure!(
        seen.tls13_connections(15008)
            .iter()
            .any(|tls| tls.from.ip() == from),
        "nothing of the client's crossed the bridge in a tunnel"
    );
    Ok(())
}
