//! The agent's administrative interface: metrics and readiness over HTTP on the node,
//! and what the command line asks over a unix socket. The agent implements
//! [`AgentView`]; nothing here changes the agent's state.

pub mod api;

use crate::observe::ConnectionInfo;

/// What the administrative interface may read of the agent. Every method is called off
/// the data plane's threads, and may block briefly.
pub trait AgentView: Send + Sync + 'static {
    /// The agent at a glance.
    fn status(&self) -> api::Status;
    /// Every workload that the configuration names, local or not.
    fn workloads(&self) -> Vec<api::WorkloadStatus>;
    /// The open connections.
    fn connections(&self) -> Vec<ConnectionInfo>;
    /// Whether the agent does its work; else what is missing, one sentence each.
    ///
    /// # Errors
    /// The sentences, never empty.
    fn ready(&self) -> Result<(), Vec<String>>;
}
