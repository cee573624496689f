//! What the agents write back: a pod that could not be enrolled says so, for as long as that is so.

use anyhow::{Context, Result, ensure};
use isthmus_tests::cluster::{Apps, Cluster, Namespace};
use isthmus_tests::wait::{self, patience};

const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// With all ports reserved, no listener of the agent can be opened in the pod.
fn reserve(namespace: &Namespace<'_>, ports: &str) -> Result<()> {
    let script = format!("echo '{ports}' > {RESERVED}");
    namespace.exec("server", &["sh", "-c", &script]).map(drop)
}

#[test]
fn a_pod_that_cannot_be_enrolled_says_so_until_it_is() -> Result<()> {
    let cluster = Cluster::with_mesh()?;
    let namespace = cluster.namespace("statuses")?;
    let privileged = "args: [serve, echo], securityContext: {privileged: true}";
    namespace.run(&Apps::new().pod("server", "n2", privileged, ""))?;
    reserve(&namespace, "1-65535")?;
    let agent = cluster.agent("n2")?;
    namespace.label("isthmus.dev/mesh", "enabled")?;
    let reason = namespace
        .watch("pod/server", "it says why it is not enrolled", |pod| {
            let told = pod["metadata"]["annotations"]["isthmus.dev/status"].as_str()?;
            Some(told.to_owned())
        })
        .with_context(|| cluster.mesh_logs())?;
    ensure!(reason.contains("network namespace"), "{reason}");
    let events = || namespace.events("Pod/server");
    let event = wait::until(
        "an event tells of it",
        patience(60),
        || {
            Ok(events()?
                .into_iter()
                .find(|it| it.starts_with("NotEnrolled: ")))
        },
        || events().unwrap_or_default().join("\n"),
    )?;
    ensure!(event.contains("network namespace"), "{event}");
    let told = agent.workload(namespace.name(), "server")?;
    let told = told.context("the agent knows the pod")?;
    ensure!(told["state"] != "enrolled", "{told:#}");

    reserve(&namespace, "")?;
    agent.wait_state(namespace.name(), "server", "enrolled")?;
    namespace.watch("pod/server", "it no longer says so", |pod| {
        pod["metadata"]["annotations"]["isthmus.dev/status"]
            .is_null()
            .then_some(())
    })
}
