//! The agent's administrative interface: metrics and readiness over HTTP on the node,
//! and what the command line asks over a unix socket. The agent implements
//! [`AgentView`] and starts the servers; nothing here changes the agent's state. An
//! authority in a cluster serves its readiness from here too.

mod access;
pub mod api;
pub mod client;
mod gauges;
mod routes;
mod serve;
mod socket;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::explain::{ExplainError, Explanation, Question};
use crate::observe::{ConnectionInfo, Flow, Registry};

pub use access::{MetricsAccess, MetricsIdentities};
pub use socket::AdminSocket;

use serve::Head;

/// What the administrative interface may read of the agent. Every method is called off
/// the data plane's threads, and may block briefly.
pub trait AgentView: Send + Sync + 'static {
    /// The agent at a glance.
    fn status(&self) -> api::Status;
    /// Every workload that the configuration names, local or not.
    fn workloads(&self) -> Vec<api::WorkloadStatus>;
    /// Why a connection would be let in or refused, or was.
    ///
    /// # Errors
    /// When the configuration or the agent does not know what is asked about.
    fn explain(&self, question: &Question) -> Result<Explanation, ExplainError>;

    /// Who lately talked to whom.
    fn flows(&self) -> Vec<Flow>;

    /// The open connections.
    fn connections(&self) -> Vec<ConnectionInfo>;
    /// Compares what is meant for each pod with what the kernel has, now, and puts back what
    /// is missing; with `probe`, proves it with connections. May take some seconds.
    ///
    /// # Errors
    /// Why there is no audit: the agent is leaving.
    fn audit(&self, probe: bool) -> Result<api::AuditReport, String>;
    /// Whether a configuration is known. Without one only [`AgentView::status`] and
    /// [`AgentView::ready`] have something to tell.
    ///
    /// # Errors
    /// What is waited for, in one sentence.
    fn knows(&self) -> Result<(), String>;
    /// Whether the agent does its work; else what is missing, one sentence each.
    ///
    /// # Errors
    /// The sentences, never empty.
    fn ready(&self) -> Result<(), Vec<String>>;
}

/// Name of the administrative socket in the run directory.
pub const SOCKET_NAME: &str = "agent.sock";

/// Name of the administrative socket of an agent that has no configuration yet, while another
/// one serves the node.
pub const STARTING_NAME: &str = "starting.sock";

/// The environment variable that names an agent among those of its node which share a run
/// directory while one replaces the other; in a cluster the UID of its pod.
pub const INSTANCE: &str = "ISTHMUS_INSTANCE";

/// Where the agent with this run directory is to be found.
pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join(SOCKET_NAME)
}

/// Why an administrative listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The TCP address.
    #[error("cannot listen on the admin address {address}: {source}; choose another with --admin")]
    Bind {
        /// What was to be bound.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The run directory or the socket in it.
    #[error("cannot {what} {}: {source}", path.display())]
    Socket {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The run directory is not ours alone.
    #[error("{} {wrong}; choose another run directory with --run-dir", path.display())]
    RunDir {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        wrong: &'static str,
    },
}

/// What both servers answer from. Clones share it.
#[derive(Clone)]
pub struct Admin {
    view: Arc<dyn AgentView>,
    registry: Arc<Registry>,
    access: Arc<MetricsAccess>,
}

impl Admin {
    /// An interface to `view` and `registry`, into which it puts the gauges that follow
    /// from [`AgentView::status`].
    pub fn new(view: Arc<dyn AgentView>, registry: Arc<Registry>, access: MetricsAccess) -> Self {
        gauges::register(&registry, &view);
        let access = Arc::new(access);
        Self {
            view,
            registry,
            access,
        }
    }

    /// How the right to see identities in metrics is proved.
    pub fn metrics_access(&self) -> &MetricsAccess {
        &self.access
    }

    /// Serves metrics and readiness to the node until `stop` completes. Dropping the
    /// future stops it too.
    pub async fn serve_node(&self, listener: TcpListener, stop: impl Future<Output = ()>) {
        serve::serve(listener, self.answerer(routes::Surface::Node), stop).await;
    }

    /// Serves the command line until `stop` completes, then removes the socket unless
    /// another agent has taken its place.
    pub async fn serve_socket(&self, socket: AdminSocket, stop: impl Future<Output = ()>) {
        serve::serve(socket, self.answerer(routes::Surface::Socket), stop).await;
    }

    fn answerer(&self, surface: routes::Surface) -> impl serve::Answerer {
        let admin = self.clone();
        move |request: &Head| routes::answer(&admin, surface, request)
    }
}

/// Serves `/healthz` and `/readyz` alone, for a process that is no agent, until `stop`
/// completes. `ready` says what is missing, one sentence each.
pub async fn serve_health<R>(listener: TcpListener, ready: R, stop: impl Future<Output = ()>)
where
    R: Fn() -> Result<(), Vec<String>> + Clone + Send + 'static,
{
    let answer = move |request: &Head| routes::health(&ready, request);
    serve::serve(listener, answer, stop).await;
}

/// Opens the listener for [`Admin::serve_node`] or [`serve_health`].
///
/// # Errors
/// [`AdminError::Bind`], when the address is taken or not this node's.
pub async fn listen_node(address: SocketAddr) -> Result<TcpListener, AdminError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| AdminError::Bind { address, source })
}

#[cfg(test)]
mod tests;
