//! A NetworkPolicy that shuts the tunnels' port is named. The CNI of the tests' cluster enforces
//! none.

use anyhow::{Result, ensure};
use isthmus_tests::cluster::{Apps, Cluster};

fn only(port: u16) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: only}}
spec:
  podSelector: {{matchLabels: {{app: server}}}}
  policyTypes: [Ingress]
  ingress: [{{ports: [{{port: {port}}}]}}]
"
    )
}

#[test]
fn network_policy_that_shuts_the_tunnels_port_is_named() -> Result<()> {
    let cluster = Cluster::with_mesh()?;
    let namespace = cluster.meshed("shut")?;
    let apps = Apps::new()
        .client("client", "n1")
        .server("server", "n2", "serve banner blue");
    namespace.run(&apps)?;
    let agent = cluster.agent("n1")?;
    agent.wait_state(namespace.name(), "client", "enrolled")?;
    namespace.apply(&only(8080))?;
    let name = format!("NetworkPolicy {}/only", namespace.name());
    let annotation = namespace.watch("pod/server", "it says that its port is shut", |pod| {
        let told = pod["metadata"]["annotations"]["isthmus.dev/status"].as_str()?;
        Some(told.to_owned())
    })?;
    ensure!(
        annotation.starts_with(&format!(
            "enrolled, but: {name} allows no TCP to port 15008"
        )),
        "{annotation}"
    );
    let (from, to) = (
        format!("{}/client", namespace.name()),
        format!("{}/server", namespace.name()),
    );
    // The agent of the client's node watches it too, and may be a moment behind.
    let explained = || agent.ask(&["explain", "--from", &from, "--to", &to, "--port", "8080"]);
    isthmus_tests::wait::until(
        "the policy is explained",
        isthmus_tests::wait::patience(30),
        || {
            let network = explained()?["ways"][0]["network"][0].clone();
            Ok(network
                .as_str()
                .is_some_and(|it| it.starts_with(&name))
                .then_some(()))
        },
        || format!("{:#?}", explained()),
    )?;
    let problems = cluster.agent("n2")?.run(&["problems"])?;
    ensure!(problems.contains(&name), "{problems}");
    let precheck = cluster.precheck()?;
    let line = precheck.lines().find(|it| it.contains("network policies"));
    ensure!(
        line.is_some_and(|it| it.contains(&format!("{}/only", namespace.name()))),
        "{precheck}"
    );

    namespace.apply(&only(15008))?;
    namespace.watch("pod/server", "it no longer says so", |pod| {
        pod["metadata"]["annotations"]["isthmus.dev/status"]
            .is_null()
            .then_some(())
    })
}
