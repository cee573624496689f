//! A pod's cgroup, found by the name that the kubelet gives it, and the processes in it.
//! Called by the sandboxes.

use std::fs;
use std::path::{Path, PathBuf};

/// Levels below the pods' cgroup in which a pod's is looked for. The kubelet makes one for
/// a Guaranteed pod and two for others (a group for the class of service in between); the
/// rest is for what nests a kubelet or names a parent of all pods' parents.
const DEPTH: u32 = 5;

/// The cgroup of the pod with this `metadata.uid` below `root`: `pod<UID>` with the kubelet's
/// cgroupfs driver, `<parent>-pod<UID, with _ for ->.slice` with its systemd driver
/// (kubernetes, pkg/kubelet/cm/cgroup_manager_linux.go). Whatever lies above does not matter.
pub(super) fn of_pod(root: &Path, uid: &str) -> Option<PathBuf> {
    if uid.is_empty() {
        return None;
    }
    find(root, &Names::of(uid), DEPTH)
}

/// Whether a directory is the cgroup of the pod with this UID, by its name.
pub(crate) fn is_cgroup_of(path: &Path, uid: &str) -> bool {
    let wanted = Names::of(uid);
    let name = path.file_name().and_then(|name| name.to_str());
    !uid.is_empty() && name.is_some_and(|name| wanted.are(name))
}

struct Names {
    plain: String,
    slice: String,
}

impl Names {
    fn of(uid: &str) -> Self {
        Self {
            plain: format!("pod{uid}"),
            slice: format!("-pod{}.slice", uid.replace('-', "_")),
        }
    }

    fn are(&self, name: &str) -> bool {
        name == self.plain || name.ends_with(&self.slice)
    }
}

fn find(dir: &Path, wanted: &Names, depth: u32) -> Option<PathBuf> {
    let mut below = Vec::new();
    // A group that goes away while it is read holds no pod.
    for entry in fs::read_dir(dir).ok()?.flatten() {
        // Links are not followed: a cgroup file system has none.
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if wanted.are(name) {
            return Some(entry.path());
        }
        if !is_a_pods(name) {
            below.push(entry.path());
        }
    }
    let depth = depth.checked_sub(1).filter(|depth| *depth > 0)?;
    below.iter().find_map(|dir| find(dir, wanted, depth))
}

/// Whether a group of this name is a pod's: what is below it is that pod's own, and may bear
/// any name that a container with a cgroup namespace likes to give.
fn is_a_pods(name: &str) -> bool {
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod").map(|(_, uid)| uid),
        None => name.strip_prefix("pod"),
    };
    // A UUID, or for a pod of the kubelet's own a hash without dashes.
    uid.is_some_and(|uid| {
        uid.len() >= 32
            && uid
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit() || b"-_".contains(&byte))
    })
}

/// The processes in `cgroup` and below it, as this process numbers them; those that it
/// cannot see are left out.
pub(super) fn processes(cgroup: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    let mut pending = vec![cgroup.to_owned()];
    while let Some(dir) = pending.pop() {
        // Threaded groups have no list of processes: theirs are in the group above.
        let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        let pids = procs.lines().filter_map(|pid| pid.parse::<u32>().ok());
        // The kernel shows 0 for one of another PID namespace.
        found.extend(pids.filter(|pid| *pid != 0));
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        let groups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        pending.extend(groups.map(|entry| entry.path()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0b4c1f3e-6d3a-4f62-9c0b-8f5f1d2a7c11";
    const SLICE: &str = "pod0b4c1f3e_6d3a_4f62_9c0b_8f5f1d2a7c11.slice";

    /// Makes the directory and looks for the pod from the top.
    fn found(path: &str) -> Option<PathBuf> {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join(path)).unwrap();
        let found = of_pod(root.path(), UID)?;
        Some(found.strip_prefix(root.path()).unwrap().to_owned())
    }

    #[test]
    fn both_drivers_and_what_nests_them() {
        for place in [
            format!("pod{UID}"),
            format!("burstable/pod{UID}"),
            format!("besteffort/pod{UID}"),
            format!("kubelet/kubepods/besteffort/pod{UID}"),
            format!("kubepods-{SLICE}"),
            format!("kubepods-burstable.slice/kubepods-burstable-{SLICE}"),
            format!(
                "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/\
                 kubelet-kubepods-besteffort-{SLICE}"
            ),
            // Groups that only look like a pod's.
            format!("nodes-pods.slice/podman/pod{UID}"),
        ] {
            assert_eq!(found(&place).as_deref(), Some(Path::new(&place)));
        }
    }

    #[test]
    fn nothing_else_is_taken_for_it() {
        for place in [
            format!("pod{UID}1"),
            format!("xpod{UID}"),
            format!("{SLICE}.scope"),
            // Too deep, and made by another pod in its own group.
            format!("a/b/c/d/e/pod{UID}"),
            format!("pod11111111-2222-3333-4444-555555555555/pod{UID}"),
            format!("kubepods-pod11111111_2222_3333_4444_555555555555.slice/kubepods-{SLICE}"),
        ] {
            assert_eq!(found(&place), None, "{place}");
        }
        assert_eq!(of_pod(Path::new("/"), ""), None);
        assert_eq!(of_pod(Path::new("/nowhere"), UID), None);
    }

    #[test]
    fn processes_of_the_whole_tree_that_can_be_seen() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("container/inner");
        fs::create_dir_all(&inner).unwrap();
        fs::write(root.path().join("cgroup.procs"), "").unwrap();
        fs::write(root.path().join("container/cgroup.procs"), "12\n0\n").unwrap();
        fs::write(inner.join("cgroup.procs"), "7\n").unwrap();
        let mut found = processes(root.path());
        found.sort_unstable();
        assert_eq!(found, [7, 12]);
        assert!(processes(Path::new("/nowhere")).is_empty());
    }
}
