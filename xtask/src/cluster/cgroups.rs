//! Cgroups of a cluster, in every hierarchy that the machine has: one (v2) or a dozen (hybrid).
//!
//! Each process of a cluster is in the v2 hierarchy below the cluster's own directory, so that
//! all of them are found, and killed, whatever became of the run that started them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A mounted hierarchy.
#[derive(Debug, Clone)]
pub(super) struct Hierarchy {
    pub(super) mount: PathBuf,
    pub(super) unified: bool,
    /// What to mount it with again, such as `cpu` or `name=systemd`.
    pub(super) options: String,
}

/// All hierarchies.
pub(super) fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts =
        fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    let found: Vec<_> = mounts.lines().filter_map(hierarchy).collect();
    if !found.iter().any(|hierarchy| hierarchy.unified) {
        bail!(
            "no cgroup v2 is mounted; `mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified` (or on /sys/fs/cgroup) mounts it"
        );
    }
    Ok(found)
}

/// Reads a line of mountinfo: `31 23 0:28 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu`.
fn hierarchy(line: &str) -> Option<Hierarchy> {
    let (mount, kind) = line.split_once(" - ")?;
    let mut kind = kind.split(' ');
    let unified = match kind.next()? {
        "cgroup2" => true,
        "cgroup" => false,
        _ => return None,
    };
    let options = kind.nth(1)?;
    Some(Hierarchy {
        mount: mount.split(' ').nth(4)?.into(),
        unified,
        options: options.trim_start_matches("rw,").to_owned(),
    })
}

/// Where v2 is mounted.
pub(super) fn unified() -> Result<PathBuf> {
    let found = hierarchies()?.into_iter().find(|h| h.unified);
    found
        .map(|hierarchy| hierarchy.mount)
        .context("no cgroup v2 is mounted")
}

/// Makes a directory in every hierarchy, ready for processes. Those above it delegate to it.
pub(super) fn create(path: &Path) -> Result<()> {
    for hierarchy in hierarchies()? {
        let mut at = hierarchy.mount.clone();
        for part in path {
            delegate(&hierarchy, &at);
            let parent = at.clone();
            at.push(part);
            make(&at)?;
            // A v1 cpuset begins empty, and takes no process until it is told its processors.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if !hierarchy.unified && at.join(file).exists() {
                    let inherited = fs::read_to_string(parent.join(file))?;
                    fs::write(at.join(file), inherited)
                        .with_context(|| format!("setting {file} of {}", at.display()))?;
                }
            }
        }
    }
    Ok(())
}

/// Lets those below a directory use its controllers. In v2 it may hold no process itself then.
pub(super) fn delegate_below(path: &Path) -> Result<()> {
    for hierarchy in hierarchies()? {
        delegate(&hierarchy, &hierarchy.mount.join(path));
    }
    Ok(())
}

/// Where v2 has controllers, lets those below use them.
fn delegate(hierarchy: &Hierarchy, directory: &Path) {
    if !hierarchy.unified {
        return;
    }
    let Ok(controllers) = fs::read_to_string(directory.join("cgroup.controllers")) else {
        return;
    };
    for controller in controllers.split_whitespace() {
        // One that is refused here is one that the nodes do without; kubelet names those it needs.
        let _ = fs::write(
            directory.join("cgroup.subtree_control"),
            format!("+{controller}"),
        );
    }
}

/// Makes a directory of v2 alone.
pub(super) fn create_unified(path: &Path) -> Result<()> {
    let mut at = unified()?;
    for part in path {
        at.push(part);
        make(&at)?;
    }
    Ok(())
}

/// Moves this process: to `path` in the v2 hierarchy, and to its first two parts (the cluster
/// and the machine) in the others.
pub(super) fn join(path: &Path) -> Result<()> {
    let machine: PathBuf = path.iter().take(2).collect();
    for hierarchy in hierarchies()? {
        let target = if hierarchy.unified { path } else { &machine };
        let file = hierarchy.mount.join(target).join("cgroup.procs");
        fs::write(&file, "0").with_context(|| format!("joining {}", file.display()))?;
    }
    Ok(())
}

/// The processes of a v2 directory and of those below it.
pub(super) fn processes(path: &Path) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    collect(&unified()?.join(path), &mut found);
    Ok(found)
}

fn collect(directory: &Path, found: &mut Vec<i32>) {
    // A directory that goes away meanwhile has no processes.
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for below in below(directory) {
        collect(&below, found);
    }
}

/// Waits until no process is left in a v2 directory; false when that takes longer.
pub(super) fn wait_empty(path: &Path, at_most: Duration) -> Result<bool> {
    let events = unified()?.join(path).join("cgroup.events");
    let deadline = Instant::now() + at_most;
    loop {
        match fs::read_to_string(&events) {
            Ok(text) if text.contains("populated 1") => {}
            _ => return Ok(true),
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Kills what runs in a v2 directory and below it.
pub(super) fn kill(path: &Path) -> Result<()> {
    let file = unified()?.join(path).join("cgroup.kill");
    match fs::write(&file, "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("writing {}", file.display()))?,
    }
    if !wait_empty(path, Duration::from_secs(30))? {
        bail!(
            "processes in {} do not end, though they were killed: {:?}",
            path.display(),
            processes(path)?
        );
    }
    Ok(())
}

/// Removes a directory, and those below it, from every hierarchy; no process may be left.
pub(super) fn remove(path: &Path) -> Result<()> {
    for hierarchy in hierarchies()? {
        remove_tree(&hierarchy.mount.join(path))?;
    }
    Ok(())
}

fn remove_tree(directory: &Path) -> Result<()> {
    for below in below(directory) {
        remove_tree(&below)?;
    }
    // The last process of a directory can hold it for an instant after its end.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("removing the cgroup {}", directory.display()));
            }
        }
    }
}

fn below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn make(directory: &Path) -> Result<()> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("making the cgroup {}", directory.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::hierarchy;

    #[test]
    fn hierarchies_are_read_from_mountinfo() {
        let v1 = hierarchy(
            "40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd",
        )
        .unwrap();
        assert!(!v1.unified);
        assert_eq!(v1.options, "name=systemd");
        let v2 = hierarchy("41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw")
            .unwrap();
        assert!(v2.unified);
        assert_eq!(v2.mount.to_str(), Some("/sys/fs/cgroup/unified"));
        assert!(hierarchy("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw").is_none());
    }
}
