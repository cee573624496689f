//! The agents are replaced while connections are made.

use anyhow::{Context, Result, ensure};
use isthmus_tests::cluster::Cluster;
use isthmus_tests::wait::{patience, until};

use crate::disruption::{self, Floods};

#[test]
fn a_new_agent_takes_over_and_no_new_connection_fails() -> Result<()> {
    let cluster = Cluster::alone_with_mesh()?;
    let namespace = cluster.meshed("upgrade")?;
    let floods = Floods::start(&cluster, &namespace)?;
    let instances = || -> Result<Vec<_>> {
        let nodes = cluster.nodes();
        let status = nodes.iter().map(|node| disruption::agent(node, "status"));
        status.map(|it| Ok(it?["instance"].clone())).collect()
    };
    let before = instances()?;
    disruption::system(&cluster, &["rollout", "restart", "daemonset/isthmus-agent"])?;
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
