//! A real Kubernetes cluster of two nodes, brought up by `cargo xtask cluster`: what tests do
//! with it. Each test works in namespaces of its own, which go with it.

mod agent;
mod apps;
mod kubectl;
mod mesh;
mod namespace;
mod node;
mod talk;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use anyhow::{Context, Result, ensure};

pub use self::agent::Agent;
pub use self::apps::Apps;
pub use self::kubectl::Object;
pub use self::namespace::Namespace;
pub use self::node::Node;
pub use self::talk::Talk;

use crate::netns::Netns;
use crate::process;
use crate::wait::patience;

/// Names the cluster's folder.
pub const FOLDER: &str = "ISTHMUS_CLUSTER";

/// Where the mesh's own objects live.
pub const SYSTEM: &str = "isthmus-system";

/// The cluster that `cargo xtask cluster` brought up.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    _turn: Turn,
}

/// Most tests share the cluster; one that stops the API server or a node has it alone.
static TURNS: RwLock<()> = RwLock::new(());

#[derive(Debug)]
#[expect(dead_code, reason = "held for their drop")]
enum Turn {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

impl Cluster {
    /// The cluster whose folder [`FOLDER`] names, shared with other tests of this process.
    ///
    /// # Errors
    /// Says how to bring one up where there is none.
    pub fn attach() -> Result<Self> {
        let turn = TURNS.read().unwrap_or_else(PoisonError::into_inner);
        Self::open(Turn::Shared(turn))
    }

    /// The same, with no other test of this process in it: for those that stop parts of it.
    ///
    /// # Errors
    /// Says how to bring one up where there is none.
    pub fn alone() -> Result<Self> {
        let turn = TURNS.write().unwrap_or_else(PoisonError::into_inner);
        Self::open(Turn::Alone(turn))
    }

    /// The cluster as [`Cluster::attach`] gives it, with the mesh in it: installed unless it is
    /// there and whole, since a test before this one may have taken it away.
    ///
    /// # Errors
    /// As [`Cluster::attach`] and [`Cluster::install_mesh`].
    pub fn with_mesh() -> Result<Self> {
        let cluster = Self::attach()?;
        cluster.ensure_mesh()?;
        Ok(cluster)
    }

    /// The cluster as [`Cluster::alone`] gives it, with the mesh in it.
    ///
    /// # Errors
    /// As [`Cluster::with_mesh`].
    pub fn alone_with_mesh() -> Result<Self> {
        let cluster = Self::alone()?;
        cluster.ensure_mesh()?;
        Ok(cluster)
    }

    fn open(turn: Turn) -> Result<Self> {
        let folder = std::env::var_os(FOLDER).with_context(|| {
            format!("{FOLDER} is not set: `cargo xtask cluster test [NAME]` brings a cluster up and runs these tests")
        })?;
        let folder = PathBuf::from(folder);
        ensure!(
            folder.join("up").exists(),
            "no cluster is up in {}, which {FOLDER} names: `cargo xtask cluster up` brings one up",
            folder.display()
        );
        let cluster = Self {
            folder,
            _turn: turn,
        };
        namespace::sweep(&cluster);
        Ok(cluster)
    }

    /// The two nodes.
    #[must_use]
    pub fn nodes(&self) -> [Node; 2] {
        ["n1", "n2"].map(|name| Node::of(self.folder(), name))
    }

    /// A new namespace for a test; its name begins with `hint`.
    ///
    /// # Errors
    /// Carries what the API server said.
    pub fn namespace(&self, hint: &str) -> Result<Namespace<'_>> {
        Namespace::create(self, hint)
    }

    /// The same in the mesh, so that all of its pods are, from their first moment.
    ///
    /// # Errors
    /// Carries what the API server said.
    pub fn meshed(&self, hint: &str) -> Result<Namespace<'_>> {
        let namespace = self.namespace(hint)?;
        namespace.label("isthmus.dev/mesh", "enabled")?;
        Ok(namespace)
    }

    /// Stops a service of the cluster: `api-server`, `scheduler`, `n1/kubelet`.
    ///
    /// # Errors
    /// Fails when there is no such service.
    pub fn stop(&self, service: &str) -> Result<()> {
        self.command("stop", service)
    }

    /// Starts a service that was stopped; the API server answers when this comes back.
    ///
    /// # Errors
    /// Fails when there is no such service, and when the API server does not become ready.
    pub fn start(&self, service: &str) -> Result<()> {
        self.command("start", service)?;
        crate::wait::until(
            "the API server is ready",
            patience(120),
            || Ok(self.kubectl(&["get", "--raw", "/readyz"]).ok()),
            String::new,
        )
        .map(drop)
    }

    /// Switches a node off, as a machine that loses its power, and on. The node's pods are not
    /// awaited.
    ///
    /// # Errors
    /// Fails when the node does not come up.
    pub fn reboot(&self, node: &Node) -> Result<()> {
        self.command("reboot", node.name())
    }

    /// The network namespace of the bridge between the nodes, for [`crate::capture::Capture`].
    ///
    /// # Errors
    /// Fails when it is gone.
    pub fn bridge(&self) -> Result<Netns> {
        let name = self.folder.file_name().unwrap_or_default();
        Netns::existing(&format!("isthmus-{}-cp", name.to_string_lossy()))
    }

    fn folder(&self) -> &Path {
        &self.folder
    }

    /// The cluster's own commands, as `cargo xtask cluster` has them.
    fn command(&self, task: &str, what: &str) -> Result<()> {
        let mut command = Command::new(self.folder.join("cluster"));
        command.args([task, what]);
        process::run(command)?
            .success()
            .map(drop)
            .with_context(|| format!("cluster {task} {what}"))
    }
}
