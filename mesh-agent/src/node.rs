//! What this machine itself says of its pods, beside what the configuration says: where
//! their cgroups and network namespaces are ([`Sandboxes`]).
//!
//! The configuration's Kubernetes source asks the sandboxes.

mod cgroups;
mod namespaces;
mod sandboxes;

pub use sandboxes::{Sandbox, Sandboxes};
