//! What `run` takes from the machine when it is not told.

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

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

pub(super) fn pods_cgroup() -> Result<PathBuf, DefaultError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(DefaultError::Mounts)?;
    kubepods_under(&cgroup2_mount(&mounts).ok_or(DefaultError::NoCgroup2)?)
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

/// Where cgroup v2 is mounted, from the text of /proc/self/mountinfo (proc_pid_mountinfo(5)).
pub(crate) fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let place = mount.split(' ').nth(4)?;
        filesystem
            .starts_with("cgroup2 ")
            .then(|| PathBuf::from(unescape(place)))
    })
}

/// Undoes the octal escapes of white space and backslash in the mount table.
fn unescape(text: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (escape, plain)| {
        text.replace(escape, plain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
24 1 0:22 / /sys rw,nosuid - sysfs sysfs rw
30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu
32 30 0:28 / /sys/fs/cgroup/uni\\040fied rw shared:10 master:3 - cgroup2 cgroup2 rw
";

    #[test]
    fn the_cgroup2_mount_is_found_beside_others() {
        assert_eq!(
            cgroup2_mount(HYBRID),
            Some("/sys/fs/cgroup/uni fied".into())
        );
        assert_eq!(cgroup2_mount(&HYBRID.replace("cgroup2", "cgroup")), None);
        assert_eq!(cgroup2_mount("nonsense\n\n - cgroup2 \n"), None);
    }

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
