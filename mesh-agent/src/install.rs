//! Isthmus in a cluster: the manifests of `deploy/`, which are in this binary, and bringing
//! them into a cluster and out of it again. Called by `mesh-agent install` and `uninstall`.

mod apply;
mod deadline;
mod embedded;
mod error;
mod kustomize;
mod manifest;
mod platform;
mod remove;
mod rollout;
mod settings;

pub use apply::{Applied, apply};
pub use embedded::{FILES, File};
pub use error::InstallError;
pub(crate) use error::said;
pub use kustomize::{BuildError, build};
pub use manifest::Manifest;
pub use platform::Platform;
pub use remove::{RemoveOptions, remove};
pub use settings::Settings;

/// Where everything of Isthmus is, but what belongs to no namespace.
pub const NAMESPACE: &str = "isthmus-system";
/// The agents' DaemonSet.
pub const AGENT: &str = "isthmus-agent";
/// The authority's Deployment.
pub const AUTHORITY: &str = "isthmus-ca";
/// Where the authority publishes its roots; the agents' pods wait for it.
pub const ROOTS: &str = "isthmus-ca-roots";

/// Takes each step's one line for the person who waits.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);

#[cfg(test)]
mod tests;
