//! The CNI plugin (`mesh-agent cni`), which the container runtime runs before a pod's first
//! container starts, and its server in the agent. The plugin asks over a unix socket whether
//! the pod may start; a [`Gate`] answers.
//!
//! The plugin is chained: it comes after those that wire the pod, changes nothing about the
//! network, and hands on the result of the plugin before it.

pub mod plugin;
mod server;
mod spec;
mod wire;

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use crate::identity::BoxFuture;
pub use server::CniServer;

/// The plugin's name: its `type` in a network configuration, and its executable's name.
pub const PLUGIN: &str = "isthmus";

/// The socket's name in the run directory.
pub const SOCKET: &str = "cni.sock";

/// One sandbox of a pod, as the container runtime describes it. Another sandbox of the same
/// pod has another container id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSandbox {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// `metadata.uid`; empty from a runtime that does not tell it.
    pub uid: String,
    /// The runtime's name of the sandbox.
    pub container_id: String,
    /// The pod's network namespace. `None` only at the end of a sandbox.
    pub netns: Option<PathBuf>,
    /// The addresses that the plugins before gave the pod.
    pub addresses: Vec<IpAddr>,
}

/// How a pod may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Admitted {
    /// It is in the mesh: nothing that it sends goes around the agent.
    Enrolled,
    /// The mesh is nothing to it.
    NotMeshed,
}

/// Why a pod may not start now, as a sentence for its events.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// Who decides whether a pod may start: the agent.
pub trait Gate: Send + Sync {
    /// Waits, for a bounded time, until the pod is enrolled or known not to be meshed. Asking
    /// again for the same sandbox does no harm.
    fn admit<'a>(&'a self, pod: PodSandbox) -> BoxFuture<'a, Result<Admitted, Refusal>>;

    /// The sandbox ends, or never came to be. Told again and again, also for one that is unknown.
    fn leave<'a>(&'a self, pod: PodSandbox) -> BoxFuture<'a, ()>;
}

#[cfg(test)]
mod tests;
