//! What most tests begin with: a client's pod on one node, a server's pod on another.

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Mesh, Mtls, Node, Pod};
use serde_json::Value;

/// Two nodes with a pod each, both enrolled. Fields are dropped in this order.
pub(crate) struct Pair {
    /// The client's pod, on `one`.
    pub(crate) client: Pod,
    /// The server's pod, on `two`.
    pub(crate) server: Pod,
    pub(crate) one: Node,
    pub(crate) two: Node,
    pub(crate) mesh: Mesh,
}

impl Pair {
    pub(crate) fn new(mode: Mtls) -> Result<Self> {
        let mesh = Mesh::new()?;
        mesh.mtls(mode)?;
        let (one, two) = (mesh.node("one")?, mesh.node("two")?);
        let (client, server) = (one.pod("client")?, two.pod("server")?);
        one.launch()?;
        two.launch()?;
        for (node, pod) in [(&one, &client), (&two, &server)] {
            node.wait_ready()?;
            node.wait_state(&pod.uid(), "enrolled")?;
        }
        Ok(Self {
            client,
            server,
            one,
            two,
            mesh,
        })
    }
}

/// What the kernel programs of a node have counted under this name.
pub(crate) fn counted(node: &Node, name: &str) -> Result<u64> {
    let status = node.cli("status")?;
    status["kernel"]["counters"][name]
        .as_u64()
        .with_context(|| format!("no counter {name} in {status}"))
}

/// The application must see a reset: at once in `connect()` or in its first read, and no
/// end of stream, which it could take for an empty answer.
pub(crate) fn ensure_reset(seen: &Value) -> Result<()> {
    ensure!(
        seen["errno"] == "ECONNRESET" && seen["ended"] != true,
        "no reset: {seen}"
    );
    Ok(())
}
