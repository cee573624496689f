//! The world that most tests want: two nodes, a client on one and a server on the other.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use isthmus_tests::capture::Recording;
use isthmus_tests::mesh::{Mesh, Mtls, Node, Pod};
use serde_json::Value;

/// Fields go in this order: agents first, so that they do not complain of vanishing pods.
pub(crate) struct Pair {
    pub(crate) a: Node,
    pub(crate) b: Node,
    /// On node `a`.
    pub(crate) client: Pod,
    /// On node `b`.
    pub(crate) server: Pod,
    pub(crate) mesh: Mesh,
}

impl Pair {
    /// Both agents run, and both pods are enrolled.
    pub(crate) fn start() -> Result<Self> {
        let pair = Self::prepare()?;
        pair.start_agents()?;
        Ok(pair)
    }

    /// As [`Pair::start`], in this mode from the beginning.
    pub(crate) fn new(mode: Mtls) -> Result<Self> {
        let pair = Self::prepare()?;
        pair.mesh.mtls(mode)?;
        pair.start_agents()?;
        Ok(pair)
    }

    /// No agent runs yet.
    pub(crate) fn prepare() -> Result<Self> {
        let mesh = Mesh::new()?;
        let (a, b) = (mesh.node("a")?, mesh.node("b")?);
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        Ok(Self {
            a,
            b,
            client,
            server,
            mesh,
        })
    }

    pub(crate) fn start_agents(&self) -> Result<()> {
        self.a.launch()?;
        self.b.launch()?;
        self.a.wait_ready()?;
        self.b.wait_ready()?;
        self.wait_enrolled()
    }

    pub(crate) fn wait_enrolled(&self) -> Result<()> {
        self.a.wait_enrolled(&self.client)?;
        self.b.wait_enrolled(&self.server)
    }

    /// Fails unless the client reaches `serve banner blue` on the server's port 8080.
    pub(crate) fn ensure_blue(&self) -> Result<()> {
        let to = self.server.v4(8080);
        let seen = self.client.client(&format!("connect {to}"))?;
        ensure!(Banner::of(&seen)?.name == "blue", "{seen}");
        Ok(())
    }
}

/// What a `banner` server said of a connection.
#[derive(Debug)]
pub(crate) struct Banner {
    pub(crate) name: String,
    /// The client by `accept()`.
    pub(crate) accept: SocketAddr,
    /// The client by `getpeername()`.
    pub(crate) peer: SocketAddr,
    /// The server by `getsockname()`.
    pub(crate) local: SocketAddr,
}

impl Banner {
    /// Reads it out of what a client read.
    pub(crate) fn of(seen: &Value) -> Result<Self> {
        let line = seen["read"].as_str().unwrap_or_default();
        let mut words = line.split_whitespace();
        let name = words
            .next()
            .with_context(|| format!("no banner in {seen}"))?
            .to_owned();
        let mut address = |key: &str| -> Result<SocketAddr> {
            let word = words
                .next()
                .and_then(|word| word.strip_prefix(key)?.strip_prefix('='));
            let address: SocketAddr = word
                .with_context(|| format!("no {key} in {seen}"))?
                .parse()?;
            Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
        };
        Ok(Self {
            name,
            accept: address("accept")?,
            peer: address("peer")?,
            local: address("local")?,
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

/// Fails unless the application was told of a reset, by `connect()` or by its first read or
/// write; an end of the stream it could take for an empty answer.
pub(crate) fn ensure_reset(seen: &Value) -> Result<()> {
    ensure!(
        seen["errno"] == "ECONNRESET" && seen["ended"] != true,
        "no reset: {seen}"
    );
    Ok(())
}

/// Fails unless all that crossed the bridge between pods was TLS 1.3 to port 15008.
pub(crate) fn ensure_only_tunnels(recording: &Recording, server: &Pod) -> Result<()> {
    let beside = recording.beside(15008);
    ensure!(
        beside.is_empty(),
        "bytes went beside the tunnel: {beside:?}"
    );
    let tunnels = recording.tls13_connections(15008);
    ensure!(
        tunnels
            .iter()
            .any(|tunnel| server.addresses().contains(&tunnel.to.ip())),
        "no TLS 1.3 connection to the server's port 15008 among {tunnels:?}; SYNs: {:?}",
        recording.syns()
    );
    Ok(())
}
