//! What is to be known of cgroup v2 directories: their ids, how deep one lies
//! below another, and which is the agent's own.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
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

/// The cgroup v2 directory that the calling process is in, or one above it.
pub(super) fn own() -> Result<PathBuf, InterceptError> {
    let cgroups =
        fs::read_to_string("/proc/self/cgroup").tried(|| "read /proc/self/cgroup".to_owned())?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .tried(|| "read /proc/self/mountinfo".to_owned())?;
    own_from(&cgroups, &mounts)
}

/// Where the cgroup v2 hierarchy is mounted; `None` where it is not.
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

/// The first mount of the cgroup v2 hierarchy, as (root, mount point).
pub(super) fn mount(mountinfo: &str) -> Option<(&str, &str)> {
    mountinfo.lines().find_map(|line| {
        // proc_pid_mountinfo(5): id, parent, device, root, mount point, options,
        // optional fields, a dash, type.
        let (head, tail) = line.split_once(" - ")?;
        let mut fields = head.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (tail.split(' ').next()? == "cgroup2").then_some((root, point))
    })
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
}
