//! Whether what a pod says of itself is so on this machine. Called by the agent
//! before it enrols a pod, and by `mesh-agent check`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statfs::statfs;

use crate::model::{Problem, Workload};

/// `NSFS_MAGIC` and `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const NSFS_MAGIC: i64 = 0x6e73_6673;
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// Looks at the network namespace and the cgroup that a pod of this node names;
/// empty when both are as they must be, or the pod names none. `pods_cgroup` is
/// where the kernel programs are attached: a cgroup elsewhere would not be seen.
pub fn check_local_pod(workload: &Workload, pods_cgroup: &Path) -> Vec<Problem> {
    let Some(local) = &workload.local else {
        return Vec::new();
    };
    let netns = check_netns(&local.netns).err();
    let cgroup = check_cgroup(&local.cgroup, pods_cgroup).err();
    let netns = netns.map(|found| found.problem(workload, "isthmus.dev/netns"));
    let cgroup = cgroup.map(|found| found.problem(workload, "isthmus.dev/cgroup"));
    netns.into_iter().chain(cgroup).collect()
}

/// What is wrong with a path, and the cure.
struct Finding(String, String);

impl Finding {
    fn problem(self, workload: &Workload, annotation: &str) -> Problem {
        let Self(message, cure) = self;
        local_problem(workload, annotation, message, &cure)
    }
}

/// What is wrong with a place that a pod of this node names in `annotation`. Of a pod of the
/// Kubernetes API it is what the node showed of its UID, and no annotation is to blame.
pub(crate) fn local_problem(
    workload: &Workload,
    annotation: &str,
    message: String,
    cure: &str,
) -> Problem {
    let object = format!("Pod {}", workload.uid);
    let (field, cure) = match workload.origin.is_of_api() {
        true => ("metadata.uid".to_owned(), FOUND),
        false => (format!("metadata.annotations[{annotation}]"), cure),
    };
    Problem::new(&workload.origin, object, field, message, cure)
}

/// The cure of what was found and is not right.
const FOUND: &str = "it was found on the node and is looked for again; if this stays, give the agent the node's \
                     /proc and the kubelet's cgroups (hostPID, CAP_SYS_PTRACE, --pods-cgroup)";

fn check_netns(path: &Path) -> Result<(), Finding> {
    let cure = || {
        format!(
            "create it with `ip netns add`, or correct the path {}",
            path.display()
        )
    };
    let magic = magic(path).map_err(|error| {
        Finding(
            format!("network namespace {}: {error}", path.display()),
            cure(),
        )
    })?;
    if magic != NSFS_MAGIC {
        let message = format!("{} is not a network namespace", path.display());
        return Err(Finding(message, cure()));
    }
    Ok(())
}

fn check_cgroup(path: &Path, pods_cgroup: &Path) -> Result<(), Finding> {
    let canonical = |path: &Path| -> Result<PathBuf, Finding> {
        fs::canonicalize(path).map_err(|error| {
            let cure = format!(
                "create it with `mkdir`, or correct the path {}",
                path.display()
            );
            Finding(format!("cgroup {}: {error}", path.display()), cure)
        })
    };
    let real = canonical(path)?;
    let is_cgroup = magic(&real).is_ok_and(|magic| magic == CGROUP2_MAGIC);
    if !is_cgroup || !real.is_dir() {
        let message = format!("{} is not a cgroup v2 directory", path.display());
        let cure = "name a directory of the cgroup2 file system".to_owned();
        return Err(Finding(message, cure));
    }
    let parent = canonical(pods_cgroup)?;
    if real == parent || !real.starts_with(&parent) {
        let message = format!("{} is not under {}", path.display(), pods_cgroup.display());
        let cure = "move the pod's cgroup there, or start the agent with another --pods-cgroup";
        return Err(Finding(message, cure.to_owned()));
    }
    Ok(())
}

fn magic(path: &Path) -> io::Result<i64> {
    Ok(statfs(path)?.filesystem_type().0)
}
