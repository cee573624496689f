//! What tests of a pod's life begin with: two nodes, whose agents run, and what is asked of
//! them again and again.

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Mesh, Mtls, Node, Pod};
use isthmus_tests::wait::wait_until;
use serde_json::Value;

/// Two nodes. Fields are dropped in this order, and pods belong before them.
pub(crate) struct Duo {
    pub(crate) one: Node,
    pub(crate) two: Node,
    pub(crate) mesh: Mesh,
}

impl Duo {
    /// Two nodes without pods, whose agents run.
    pub(crate) fn running(mode: Mtls) -> Result<Self> {
        let duo = Self::stopped(mode)?;
        duo.one.launch()?;
        duo.two.launch()?;
        duo.one.wait_ready()?;
        duo.two.wait_ready()?;
        Ok(duo)
    }

    /// Two nodes without pods, whose agents do not run yet.
    pub(crate) fn stopped(mode: Mtls) -> Result<Self> {
        let mesh = Mesh::new()?;
        mesh.mtls(mode)?;
        let (one, two) = (mesh.node("one")?, mesh.node("two")?);
        Ok(Self { one, two, mesh })
    }

    /// A pod on each node, both enrolled.
    pub(crate) fn pods(&self) -> Result<(Pod, Pod)> {
        let (client, server) = (self.one.pod("client")?, self.two.pod("server")?);
        self.one.wait_state(&client.uid(), "enrolled")?;
        self.two.wait_state(&server.uid(), "enrolled")?;
        // The client's node must know the server too, or it would be plain to it.
        self.one.wait_state(&server.uid(), "remote")?;
        self.two.wait_state(&client.uid(), "remote")?;
        Ok((client, server))
    }
}

/// What the kernel programs and the agent of a node have counted under this name.
pub(crate) fn counted(node: &Node, name: &str) -> Result<u64> {
    let status = node.cli("status")?;
    status["kernel"]["counters"][name]
        .as_u64()
        .with_context(|| format!("no counter {name} in {status}"))
}

/// The one live connection of this direction on a node.
pub(crate) fn live(node: &Node, direction: &str) -> Result<Value> {
    let all = node.cli("connections")?;
    let all = all.as_array().context("a list of connections")?;
    let found: Vec<_> = all.iter().filter(|c| c["direction"] == direction).collect();
    ensure!(found.len() == 1, "{direction}: {all:?}");
    Ok(found[0].clone())
}

/// Waits until a node has put in force what the files say at the time of the call.
pub(crate) fn wait_mode(node: &Node, mode: &str) -> Result<()> {
    wait_until("the mode is in force", || {
        node.cli("status")
            .is_ok_and(|status| status["inbound_mode"] == mode)
    })
}
