//! What tests ask of a node again and again, or of a capture.

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Mesh, Node, Pod};
use isthmus_tests::wait::wait_until;
use serde_json::Value;

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

/// Waits until a node has put this mode in force.
pub(crate) fn wait_mode(node: &Node, mode: &str) -> Result<()> {
    wait_until(&format!("{mode} is in force"), || {
        node.cli("status")
            .is_ok_and(|status| status["inbound_mode"] == mode)
    })
}

/// Waits until a node does not know a pod any more.
pub(crate) fn wait_unknown(node: &Node, pod: &Pod) -> Result<()> {
    wait_until(&format!("{} is unknown", pod.uid()), || {
        matches!(node.workload(&pod.uid()), Ok(None))
    })
}

/// How a request crossed the bridge.
#[derive(Debug, PartialEq)]
pub(crate) enum Crossing {
    Encrypted,
    Plain,
}

/// Sends a marker from one pod to the `echo` server of the other, which must answer.
pub(crate) fn crossing(mesh: &Mesh, client: &Pod, server: &Pod) -> Result<Crossing> {
    let capture = mesh.capture()?;
    let seen = client.client(&format!("connect {} --send marker-Q7x", server.v4(8080)))?;
    ensure!(seen["read"] == "marker-Q7x\n", "{seen}");
    let recording = capture.stop()?;
    if recording.contains(b"marker-Q7x") {
        return Ok(Crossing::Plain);
    }
    // The tunnel may be an older one, whose handshake is not in the recording.
    let tunnelled = recording.directions().any(|d| d.to.port() == 15008);
    ensure!(tunnelled, "neither in the clear nor in a tunnel");
    Ok(Crossing::Encrypted)
}
