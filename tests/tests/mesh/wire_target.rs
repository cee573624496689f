//! What the tests of the wire aim at: one pod of the mesh, and a client that is no agent.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use http::StatusCode;
use isthmus_tests::mesh::{Mesh, Mtls, Node, Pod};
use isthmus_tests::process::Process;

use crate::wire_peer::{Peer, connect};

/// A pod with an `echo` server on port 8080, and a client of the mesh without an agent.
pub(crate) struct Target {
    _echo: Process,
    pub(crate) server: Pod,
    pub(crate) client: Pod,
    pub(crate) node: Node,
    pub(crate) mesh: Mesh,
}

impl Target {
    pub(crate) fn start() -> Result<Self> {
        let mesh = Mesh::new()?;
        mesh.mtls(Mtls::Strict)?;
        let node = mesh.node("one")?;
        let (server, client) = (node.pod("server")?, mesh.outsider("client")?);
        node.start()?;
        node.wait_state(&server.uid(), "enrolled")?;
        Ok(Self {
            _echo: server.serve("serve echo --listen [::]:8080")?,
            server,
            client,
            node,
            mesh,
        })
    }

    pub(crate) fn tunnel_port(&self) -> SocketAddr {
        self.server.v4(15008)
    }

    pub(crate) fn wait_reason(&self, reason: &str, detail: &str) -> Result<()> {
        let what = format!("{reason} and {detail:?}");
        self.node.wait_access(&what, |line| {
            line["reason"] == reason
                && line["outcome"] == "denied"
                && line["detail"].as_str().is_some_and(|d| d.contains(detail))
        })?;
        Ok(())
    }

    /// The port that the agent listens on inside the server's pod.
    pub(crate) fn agents_listener(&self) -> Result<u16> {
        let enrolled = self
            .node
            .log()?
            .into_iter()
            .find(|line| line["message"] == "enrolled" && line["pod"] == self.server.uid())
            .context("no line of the log tells of the enrolment")?;
        let port = enrolled["port"]
            .as_u64()
            .with_context(|| format!("{enrolled}"))?;
        Ok(u16::try_from(port)?)
    }

    /// The mesh goes on serving: another client's tunnel, handshake and bytes.
    pub(crate) fn ensure_serving(&self, peer: &Peer) -> Result<()> {
        let tunnel = peer.tunnel(&self.client, &self.server, self.tunnel_port())?;
        let request = connect(&self.server.v4(8080).to_string());
        peer.run(async {
            let mut answer = tunnel.ask(request).await?;
            ensure!(answer.status == StatusCode::OK, "{}", answer.status);
            answer.echo("still here").await
        })
    }
}
