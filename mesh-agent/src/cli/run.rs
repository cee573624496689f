//! The options of `mesh-agent run`, with their defaults. `main` hands the result to the
//! agent.

mod defaults;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use crate::observe::logging;

pub use defaults::DefaultError;
pub(crate) use defaults::cgroup2_mount;

/// Options of `mesh-agent run`, as given.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Folder of Kubernetes-shaped YAML to take the mesh from. It is watched.
    #[arg(long, value_name = "DIR")]
    pub config: PathBuf,
    /// Name of this node, as the pods' spec.nodeName has it [default: the host name].
    #[arg(long)]
    pub node: Option<String>,
    /// Control group (v2) that holds all pods [default: the kubelet's].
    #[arg(long, value_name = "DIR")]
    pub pods_cgroup: Option<PathBuf>,
    /// Where eBPF links and maps are pinned.
    #[arg(long, value_name = "DIR", default_value = super::DEFAULT_PIN_DIR)]
    pub pin_dir: PathBuf,
    /// Where the agent's sockets are.
    #[arg(long, value_name = "DIR", default_value = super::DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,
    /// Where the embedded authority keeps its keys.
    #[arg(long, value_name = "DIR", default_value = super::DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,
    /// Address of metrics and readiness.
    #[arg(long, value_name = "ADDR:PORT", default_value_t = DEFAULT_ADMIN)]
    pub admin: SocketAddr,
    /// Threads that carry traffic [default: one for each CPU].
    #[arg(long, value_name = "N")]
    pub workers: Option<NonZeroUsize>,
    /// Form of the log on standard error; RUST_LOG filters it.
    #[arg(long, value_enum, default_value_t)]
    pub log_format: logging::Format,
}

/// Loopback alone, port 15020 as Istio's agents have it.
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15020);

/// Options of `mesh-agent run` with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOptions {
    /// Folder that the mesh is taken from.
    pub config: PathBuf,
    /// Name of this node.
    pub node: String,
    /// Control group (v2) that holds all pods.
    pub pods_cgroup: PathBuf,
    /// Where eBPF links and maps are pinned.
    pub pin_dir: PathBuf,
    /// Where the agent's sockets are.
    pub run_dir: PathBuf,
    /// Where the embedded authority keeps its keys.
    pub state_dir: PathBuf,
    /// Address of metrics and readiness.
    pub admin: SocketAddr,
    /// Threads that carry traffic.
    pub workers: NonZeroUsize,
}

impl RunArgs {
    /// Fills in what was not given from the machine.
    ///
    /// # Errors
    /// When the machine does not tell; the error names the option to give instead.
    pub fn resolve(self) -> Result<RunOptions, DefaultError> {
        Ok(RunOptions {
            node: self.node.map_or_else(defaults::node, Ok)?,
            pods_cgroup: self.pods_cgroup.map_or_else(defaults::pods_cgroup, Ok)?,
            workers: self.workers.unwrap_or_else(defaults::workers),
            config: self.config,
            pin_dir: self.pin_dir,
            run_dir: self.run_dir,
            state_dir: self.state_dir,
            admin: self.admin,
        })
    }
}
