//! What this machine itself says of its pods, beside what the configuration says: where
//! their cgroups and network namespaces are ([`Sandboxes`]), and that one is about to start
//! ([`cni`]). [`chain`] keeps the plugin in the container runtime's configuration.
//!
//! The configuration's Kubernetes source asks the sandboxes; the agent runs the plugin's
//! server and the keeper of the chain; the plugin itself is `mesh-agent cni`.

mod cgroups;
pub mod chain;
pub mod cni;
mod namespaces;
mod sandboxes;

pub(crate) use cgroups::is_cgroup_of;
pub(crate) use sandboxes::by_run;
pub use sandboxes::{Sandbox, Sandboxes};
