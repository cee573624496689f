//! What `run` takes from the machine when it is not told.

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use crate::intercept;

/// A default that the machine does not give.
#[derive(Debug, thiserror::Error)]
pub enum DefaultError {
    /// The kernel's host name.
    #[error("cannot read the host name: {0}; name this node with --node")]
    Node(io::Error),
    /// The mount table.
    #[error("cannot read the mount table: {0}; name the pods' control group with --pods-cgroup")]
    Mounts(io::Error),
    /// No cgroup v2.
    #[error(
        "no cgroup v2 hierarchy is mounted; mount one (mount -t cgroup2 none /sys/fs/cgroup), \
         or boot with systemd.unified_cgroup_hierarchy=1"
    )]
    NoCgroup2,
    /// No kubelet.
    #[error(
        "no control group of a kubelet (kubepods.slice or kubepods) under {}; name the \
         control group that holds the pods with --pods-cgroup", .0.display()
    )]
    NoKubepods(PathBuf),
}

pub(super) fn node() -> Result<String, DefaultError> {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .map_err(DefaultError::Node)
}

pub(super) fn workers() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

pub(in crate::cli) fn pods_cgroup() -> Result<PathBuf, DefaultError> {
    let mount = intercept::cgroup2_mount().map_err(DefaultError::Mounts)?;
    kubepods_under(&mount.ok_or(DefaultError::NoCgroup2)?)
}

/// The kubelet's parent of all pods: with its systemd driver a slice, else a plain group
/// (Kubernetes, kubelet `--cgroup-driver`).
fn kubepods_under(root: &Path) -> Result<PathBuf, DefaultError> {
    ["kubepods.slice", "kubepods"]
        .iter()
        .map(|name| root.join(name))
        .find(|path| path.is_dir())
        .ok_or_else(|| DefaultError::NoKubepods(root.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelets_group_is_found_under_either_driver() {
        let root = tempfile::tempdir().unwrap();
        let error = kubepods_under(root.path()).unwrap_err().to_string();
        assert!(error.contains("--pods-cgroup"), "{error}");
        for name in ["kubepods", "kubepods.slice"] {
            fs::create_dir(root.path().join(name)).unwrap();
            assert_eq!(kubepods_under(root.path()).unwrap(), root.path().join(name));
        }
    }
}
