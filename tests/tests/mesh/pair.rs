//! Two nodes with one pod each, enrolled: the smallest mesh in which traffic crosses a tunnel.

use anyhow::Result;
use isthmus_tests::mesh::{Mesh, Mtls, Node, Pod};

/// A client's pod on node `one`, a server's on node `two`. Dropped in the order of the fields.
pub(crate) struct Pair {
    pub(crate) client: Pod,
    pub(crate) server: Pod,
    pub(crate) one: Node,
    pub(crate) two: Node,
    pub(crate) mesh: Mesh,
}

impl Pair {
    pub(crate) fn start(mode: Mtls) -> Result<Self> {
        let mesh = Mesh::new()?;
        mesh.mtls(mode)?;
        let (one, two) = (mesh.node("one")?, mesh.node("two")?);
        let (client, server) = (one.pod("client")?, two.pod("server")?);
        one.start()?;
        two.start()?;
        one.wait_state(&client.uid(), "enrolled")?;
        two.wait_state(&server.uid(), "enrolled")?;
        Ok(Self {
            client,
            server,
            one,
            two,
            mesh,
        })
    }
}
