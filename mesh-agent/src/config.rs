//! The sources of configuration: each hands the agent a new
//! [`World`](crate::model::World) whenever it changes. [`KubeSource`] watches the
//! Kubernetes API; [`FolderSource`] reads a directory of Kubernetes-shaped YAML and
//! watches it:
//!
//! - Read are `*.yaml`, `*.yml` and `*.json` directly in the directory, each at most
//!   [`MAX_FILE_BYTES`] long, with any number of documents and `kind: List`. Hidden
//!   files are not read, so the `..data` machinery of a mounted ConfigMap works:
//!   its visible entries are links, and the switch of `..data` is a change.
//! - A file counts as a whole. When any of its objects cannot be read, the problem
//!   is reported and the file's last good version stays, all of it. A file that
//!   never was good contributes nothing, and [`Loaded::complete`] says so.
//! - A deleted file removes its objects.
//! - Replace files by renaming over them. A file that is written in place is read
//!   when it is closed, or half a second after the change began.

mod cache;
mod document;
mod folder;
pub(crate) mod inotify;
mod kube;
mod local;
mod source;
mod unread;
mod watch;

#[cfg(test)]
mod tests;

pub use cache::MAX_FILE_BYTES;
pub use document::read_objects;
pub use folder::{FolderSource, Offline, read_folder};
pub use kube::{Hearing, KindHealth, KubeHealth, KubeSource, NAMESPACE, Turns};
pub use local::check_local_pod;
pub(crate) use local::local_problem;
pub use source::{ConfigError, Loaded, PolicyVersion, Source};

pub use crate::model::Problem;
