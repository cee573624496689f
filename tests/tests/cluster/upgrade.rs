//! The agents are replaced while connections are made.

use anyhow::{Context, Result, ensure};
use isthmus_tests::cluster::{Apps, Cluster, Talk};
use isthmus_tests::wait::{patience, until};

use crate::disruption::{self, Floods};

#[test]
fn a_new_agent_takes_over_and_no_connection_fails() -> Result<()> {
    let cluster = Cluster::alone_with_mesh()?;
    let namespace = cluster.meshed("upgrade")?;
    // On one node, so that the agents of one node alone have to do with the connection.
    let echo = Apps::new().server("echo", "n1", "serve echo");
    namespace.run(&echo.client("client", "n1"))?;
    let floods = Floods::start(&cluster, &namespace)?;
    disruption::wait_enrolled(&cluster, &namespace, [4, 2])?;
    let talk = Talk::open(&namespace, "client", (namespace.address("echo", 4)?, 8080))?;
    let first = &cluster.nodes()[0];
    let old = disruption::agent(first, "status")?["instance"].clone();
    let instances = || -> Result<Vec<_>> {
        let nodes = cluster.nodes();
        let status = nodes.iter().map(|node| disruption::agent(node, "status"));
        status.map(|it| Ok(it?["instance"].clone())).collect()
    };
    let before = instances()?;
    disruption::system(&cluster, &["rollout", "restart", "daemonset/isthmus-agent"])?;
    let in_force = || -> Result<_> {
        // Nobody answers for the moment in which the socket changes hands.
        let now = disruption::agent(first, "status").unwrap_or_default();
        Ok(
            (now["instance"].is_string() && now["instance"] != old && now["ready"] == true)
                .then_some(()),
        )
    };
    until("a new agent serves n1", patience(180), in_force, || {
        cluster.mesh_logs()
    })?;
    // The old agent is the only one that can carry it, and does so while it drains.
    talk.ask()?;
    talk.ask()?;
    ensure!(
        disruption::agents(&cluster)? > 2,
        "the old agent left before its connection was closed"
    );
    talk.close()?;
    disruption::wait_rollout(&cluster, "daemonset/isthmus-agent")?;
    // The agents that were replaced are gone, not only the new ones ready.
    until(
        "the old agents are gone",
        patience(120),
        || Ok((disruption::agents(&cluster)? == 2).then_some(())),
        || cluster.mesh_logs(),
    )?;
    floods.wait_right()?;
    let after = instances()?;
    ensure!(
        before.iter().zip(&after).all(|(old, new)| old != new),
        "an agent was not replaced: {before:?}, {after:?}"
    );
    disruption::ensure_none_failed(&floods.stop()?).with_context(|| cluster.mesh_logs())
}
