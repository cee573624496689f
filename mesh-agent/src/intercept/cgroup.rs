//! What is to be known of cgroup v2 directories: their ids, how deep one lies
//! below another, and which is the agent's own.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::error::{InterceptError, Tried};

/// The id of a cgroup v2 directory, as the kernel programs see it: its inode
/// number, on machines of 64 bits.
pub(super) fn id(path: &Path) -> Result<u64, InterceptError> {
    let metadata = fs::metadata(path).tried(|| format!("find the cgroup {}", path.display()))?;
    let is_cgroup2 = statfs(path).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC);
    if !metadata.is_dir() || !is_cgroup2 {
        return Err(InterceptError::NotCgroup2(path.to_owned()));
    }
    Ok(metadata.ino())
}

/// How many levels `cgroup` lies below the cgroup with id `ancestor`, counted
/// by walking up, so that links and mounts of parts of the tree do no harm;
/// `None` when it is not 1 to `max` levels below.
pub(super) fn depth_below(cgroup: &Path, ancestor: u64, max: u32) -> io::Result<Option<u32>> {
    let mut path = cgroup.to_owned();
    for depth in 1..=max {
        path.push("..");
        let metadata = fs::metadata(&path)?;
        if statfs(&path)?.filesystem_type() != CGROUP2_SUPER_MAGIC {
            return Ok(None);
        }
        if metadata.ino() == ancestor {
            return Ok(Some(depth));
        }
    }
    Ok(None)
}

/// The ids of `cgroup` and of every cgroup below it, as they are now.
pub(super) fn ids_within(cgroup: &Path) -> io::Result<Vec<u64>> {
    let mut ids = vec![fs::metadata(cgroup)?.ino()];
    let mut pending = vec![cgroup.to_owned()];
    while let Some(directory) = pending.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            // Removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound && directory != cgroup => {
                continue;
            }
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir()
                && let Ok(metadata) = entry.metadata()
            {
                ids.push(metadata.ino());
                pending.push(entry.path());
            }
        }
    }
    Ok(ids)
}

/// The directories of those of these cgroups that are at most `depth` levels below `root`, by id.
pub(super) fn find(root: &Path, ids: &[u64], depth: u32) -> io::Result<HashMap<u64, PathBuf>> {
    let mut found = HashMap::new();
    let mut pending = vec![(root.to_owned(), depth)];
    while let Some((directory, depth)) = pending.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            // Removed since it was listed.
            Err(error) if is_gone(&error) && directory != root => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(error),
            };
            if !entry.file_type()?.is_dir() {
                continue;
            }
            // The inode number of a directory's entry is the cgroup's id.
            if ids.contains(&entry.ino()) {
                found.insert(entry.ino(), entry.path());
            }
            if depth > 1 {
                pending.push((entry.path(), depth - 1));
            }
        }
        if found.len() == ids.len() {
            break;
        }
    }
    Ok(found)
}

/// Whether processes are in the cgroup with this id, or below it. `path` is where it was: another
/// cgroup there, or none, means that it is gone. `None` when that cannot be read.
pub fn is_populated(path: &Path, id: u64) -> Option<bool> {
    let there = match fs::metadata(path) {
        Ok(metadata) => metadata.ino() == id,
        Err(error) if is_gone(&error) => false,
        Err(_) => return None,
    };
    if !there {
        return Some(false);
    }
    match fs::read_to_string(path.join("cgroup.events")) {
        Ok(events) => Some(!events.lines().any(|line| line == "populated 0")),
        Err(error) if is_gone(&error) => Some(false),
        Err(_) => None,
    }
}

/// Those of `pids` that are in the cgroup itself, as this process' own pid namespace
/// numbers them.
pub(super) fn holds(cgroup: &Path, pids: &[u32]) -> io::Result<Vec<u32>> {
    match fs::read_to_string(cgroup.join("cgroup.procs")) {
        Ok(procs) => {
            let procs = procs.lines().filter_map(|line| line.parse().ok());
            Ok(procs.filter(|pid| pids.contains(pid)).collect())
        }
        // A threaded cgroup, whose processes are listed above it.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// In which cgroup each of `pids` is, of those at and below `root`; not below the one with
/// the id `but`. The paths that /proc tells are no help: they are relative to the reader's
/// cgroup namespace, whose own place in the mounted tree it hides.
pub(super) fn homes(
    root: &Path,
    pids: &[u32],
    but: Option<u64>,
) -> io::Result<Vec<(u32, PathBuf)>> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        let look = || -> io::Result<(Vec<u32>, Vec<PathBuf>)> {
            let mut below = Vec::new();
            if Some(fs::metadata(&directory)?.ino()) == but {
                return Ok((Vec::new(), below));
            }
            for entry in fs::read_dir(&directory)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    below.push(entry.path());
                }
            }
            Ok((holds(&directory, pids)?, below))
        };
        match look() {
            Ok((held, below)) => {
                found.extend(held.into_iter().map(|pid| (pid, directory.clone())));
                pending.extend(below);
            }
            // Removed since it was listed.
            Err(error) if directory != root && is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

/// The cgroup v2 directory that the calling process is in, or one above it.
pub(crate) fn own() -> Result<PathBuf, InterceptError> {
    let cgroups =
        fs::read_to_string("/proc/self/cgroup").tried(|| "read /proc/self/cgroup".to_owned())?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .tried(|| "read /proc/self/mountinfo".to_owned())?;
    let told = own_from(&cgroups, &mounts);
    let pid = [std::process::id()];
    if let Ok(told) = &told
        && holds(told, &pid).is_ok_and(|found| !found.is_empty())
    {
        return Ok(told.clone());
    }
    // In a cgroup namespace, with the host's hierarchy mounted: it is somewhere below.
    let found = mount(&mounts).and_then(|(_, point)| {
        let homes = homes(&PathBuf::from(unescape(point)), &pid, None);
        homes.ok()?.pop()
    });
    match found {
        Some((_, found)) => Ok(found),
        None => told,
    }
}

/// Where the cgroup v2 hierarchy is mounted: of several mounts the one that shows most of
/// it, which in a container is the host's. `None` where there is none.
///
/// # Errors
/// When the mount table cannot be read.
pub fn cgroup2_mount() -> io::Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(mount(&mounts).map(|(_, point)| PathBuf::from(unescape(point))))
}

/// Undoes the octal escapes of white space and backslash in the mount table.
fn unescape(text: &str) -> String {
    const ESCAPES: [(&str, &str); 4] = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    let undo = |text: String, (escape, plain): &(&str, &str)| text.replace(escape, plain);
    ESCAPES.iter().fold(text.to_owned(), undo)
}

/// The mount of the cgroup v2 hierarchy that shows most of it, as (root, mount point). A
/// root such as `/../..` is above the cgroup namespace's own, and the more so the longer;
/// of the others, the shortest shows most. Of two at one mount point, the later one hides
/// the earlier.
pub(super) fn mount(mountinfo: &str) -> Option<(&str, &str)> {
    let mut mounts: Vec<(&str, &str)> = Vec::new();
    for line in mountinfo.lines() {
        // proc_pid_mountinfo(5): id, parent, device, root, mount point, options,
        // optional fields, a dash, type.
        let (head, tail) = line.split_once(" - ")?;
        let mut fields = head.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        mounts.retain(|(_, hidden)| *hidden != point);
        if tail.split(' ').next()? == "cgroup2" {
            mounts.push((root, point));
        }
    }
    let components = |root: &str| root.split('/').filter(|name| !name.is_empty()).count();
    let above = |root: &str| root.split('/').filter(|name| *name == "..").count();
    let shows = |(root, _): &(&str, &str)| {
        let above = above(root);
        (std::cmp::Reverse(above), components(root) - above)
    };
    // The first of equals.
    mounts.into_iter().min_by_key(shows)
}

fn own_from(cgroups: &str, mountinfo: &str) -> Result<PathBuf, InterceptError> {
    let path = cgroups
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .ok_or(InterceptError::OwnCgroup {
            tried: "/proc/self/cgroup",
            cure: "the kernel must support cgroup v2",
        })?;
    let (root, point) = mount(mountinfo).ok_or(InterceptError::OwnCgroup {
        tried: "/proc/self/mountinfo",
        cure: "mount it (`mount -t cgroup2 none /sys/fs/cgroup`)",
    })?;
    // A root such as `/../..` is above the cgroup namespace's own: the mount
    // holds the agent's cgroup at a place that is hidden from it. The programs
    // do their work from any cgroup above, so the mount's root will do.
    if root.contains("..") {
        return Ok(PathBuf::from(unescape(point)));
    }
    let below = if root == "/" {
        Some(path)
    } else {
        path.strip_prefix(root)
    };
    match below {
        Some(below) if !below.contains("..") => {
            Ok(PathBuf::from(unescape(point)).join(below.trim_start_matches('/')))
        }
        _ => Err(InterceptError::OwnCgroup {
            tried: "the mounted cgroup v2 hierarchy, which does not reach it",
            cure: "name it, or mount the whole hierarchy",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
24 20 0:21 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
25 20 0:22 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw
";

    #[test]
    fn own_cgroup_is_found_on_hybrid_hosts() {
        let own = own_from("4:memory:/x\n0::/agents/one\n", HYBRID).unwrap();
        assert_eq!(own, Path::new("/sys/fs/cgroup/unified/agents/one"));
        let root = own_from("0::/\n", HYBRID).unwrap();
        assert_eq!(root, Path::new("/sys/fs/cgroup/unified/"));
    }

    #[test]
    fn white_space_in_a_mount_point_is_unescaped() {
        let mounts = HYBRID.replace("unified", "uni\\040fied");
        let own = own_from("0::/agents\n", &mounts).unwrap();
        assert_eq!(own, Path::new("/sys/fs/cgroup/uni fied/agents"));
    }

    #[test]
    fn a_mount_of_a_part_of_the_tree_is_stripped() {
        let mounts = "9 1 0:22 /kubepods/pod1 /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let own = own_from("0::/kubepods/pod1/agent\n", mounts).unwrap();
        assert_eq!(own, Path::new("/sys/fs/cgroup/agent"));
        assert!(own_from("0::/elsewhere\n", mounts).is_err());
    }

    #[test]
    fn a_mount_from_above_the_cgroup_namespace_is_taken_whole() {
        let mounts = "9 1 0:22 /../../.. /host/cgroup rw - cgroup2 cgroup2 rw\n";
        let own = own_from("0::/\n", mounts).unwrap();
        assert_eq!(own, Path::new("/host/cgroup"));
    }

    #[test]
    fn of_several_mounts_the_one_that_shows_most_is_taken() {
        // A container with a cgroup namespace of its own and a hostPath volume.
        let mounts = "\
8 1 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
9 1 0:22 /../../.. /host/cgroup rw - cgroup2 cgroup2 rw
";
        assert_eq!(mount(mounts), Some(("/../../..", "/host/cgroup")));
        // The same without such a namespace.
        let mounts = "\
8 1 0:22 /kubepods/pod1/c /sys/fs/cgroup rw - cgroup2 cgroup2 rw
9 1 0:22 / /host/cgroup rw - cgroup2 cgroup2 rw
";
        assert_eq!(mount(mounts), Some(("/", "/host/cgroup")));
        // The volume in the very place.
        let mounts = "\
8 1 0:22 /.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw
9 8 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
";
        assert_eq!(mount(mounts), Some(("/", "/sys/fs/cgroup")));
        // Hidden by something else.
        let mounts = "\
8 1 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
9 8 0:23 / /sys/fs/cgroup rw - tmpfs tmpfs rw
";
        assert_eq!(mount(mounts), None);
    }

    #[test]
    fn a_process_is_found_in_the_tree() {
        let root = tempfile::tempdir().unwrap();
        let group = |path: &str, procs: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("cgroup.procs"), procs).unwrap();
            path
        };
        group("", "1\n17\n");
        let kubelet = group("system/kubelet", "7\n8\n");
        group("system", "");
        let pods = group("pods", "");
        group("pods/one", "0\n9\n");
        let found = homes(root.path(), &[7, 9, 170], None).unwrap();
        let one = (9, root.path().join("pods/one"));
        assert!(found.len() == 2 && found.contains(&one), "{found:?}");
        let but = fs::metadata(pods).unwrap().ino();
        let found = homes(root.path(), &[7, 9], Some(but)).unwrap();
        assert_eq!(found, [(7, kubelet)]);
    }

    #[test]
    fn without_cgroup2_the_error_names_the_cure() {
        let error = own_from("0::/\n", "1 0 0:5 / /proc rw - proc proc rw\n").unwrap_err();
        assert!(error.to_string().contains("mount -t cgroup2"), "{error}");
        assert!(own_from("4:memory:/x\n", HYBRID).is_err());
    }

    #[test]
    fn what_is_no_cgroup_is_refused() {
        let error = id(Path::new("/proc")).unwrap_err();
        assert!(matches!(error, InterceptError::NotCgroup2(_)), "{error}");
    }

    #[test]
    fn find_gives_the_directories_that_have_an_id() {
        let root = tempfile::tempdir().unwrap();
        let pod = root.path().join("burstable/pod1");
        fs::create_dir_all(pod.join("container")).unwrap();
        let id = |path: &Path| fs::metadata(path).unwrap().ino();
        let ids = [id(&pod), id(&pod.join("container")), u64::MAX];
        let found = find(root.path(), &ids, 2).unwrap();
        assert_eq!(found, HashMap::from([(ids[0], pod)]));
        assert!(find(&root.path().join("nowhere"), &ids, 2).is_err());
    }

    #[test]
    fn is_populated_tells_a_removed_cgroup_from_one_with_processes() {
        let root = tempfile::tempdir().unwrap();
        let id = fs::metadata(root.path()).unwrap().ino();
        for (events, expected) in [
            ("populated 1\nfrozen 0\n", true),
            ("populated 0\nfrozen 0\n", false),
        ] {
            fs::write(root.path().join("cgroup.events"), events).unwrap();
            assert_eq!(is_populated(root.path(), id), Some(expected), "{events}");
        }
        // Another directory in its place.
        fs::write(root.path().join("cgroup.events"), "populated 1\n").unwrap();
        assert_eq!(is_populated(root.path(), id + 1), Some(false));
        assert_eq!(is_populated(&root.path().join("nowhere"), id), Some(false));
    }
}
