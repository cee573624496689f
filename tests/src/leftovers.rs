//! Names of everything the harness makes, and removal of what a killed run left.
//!
//! A test's names carry the process id of their maker: `ist-<pid>-<n>`. Whatever bears the id
//! of a process that no longer lives is nobody's, and the next run removes it. The demo and the
//! bench have a fixed name each, and are removed by that name.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};

use crate::{cgroup, netns};

const PREFIX: &str = "ist-";

/// A name that nothing else on the machine has.
#[must_use]
pub fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!(
        "{PREFIX}{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// Where a world keeps its files.
#[must_use]
pub fn folder(name: &str) -> PathBuf {
    // Not in the build folder: a socket's path may have 107 bytes.
    std::env::temp_dir().join(name)
}

/// Removes what runs that were killed left, once a process.
pub fn sweep() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Err(error) = remove_of(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            eprintln!("leftovers of an earlier run stay: {error:#}");
        }
    });
}

/// Removes everything whose maker's process id satisfies `dead`: cgroups (with what runs in
/// them), namespaces, mounts, folders.
///
/// # Errors
/// Names the first thing that could not be removed.
pub fn remove_of(dead: impl Fn(u32) -> bool) -> Result<()> {
    Traces::find(|name| maker(name).is_some_and(&dead))?.remove()
}

/// Removes everything of the world called `name`, whoever made it. Says whether there was any.
///
/// # Errors
/// Names the first thing that could not be removed.
pub fn remove_world(name: &str) -> Result<bool> {
    let traces = traces_of(name)?;
    traces.remove()?;
    Ok(!traces.is_empty())
}

/// Whether anything of the world called `name` is on the machine.
///
/// # Errors
/// Fails where no cgroup v2 is mounted.
pub fn world_exists(name: &str) -> Result<bool> {
    Ok(!traces_of(name)?.is_empty())
}

/// What a world made: one name stands in several places.
#[derive(Debug)]
struct Traces {
    cgroups: Vec<PathBuf>,
    netns: Vec<String>,
    folders: Vec<PathBuf>,
}

impl Traces {
    fn find(wanted: impl Fn(&str) -> bool) -> Result<Self> {
        let paths_in = |folder: &Path| {
            names_in(folder)
                .into_iter()
                .filter(|name| wanted(name))
                .map(|name| folder.join(name))
                .collect()
        };
        Ok(Self {
            cgroups: paths_in(&cgroup::mount_point()?),
            netns: names_in(Path::new("/run/netns"))
                .into_iter()
                .filter(|name| wanted(name))
                .collect(),
            folders: paths_in(&std::env::temp_dir()),
        })
    }

    fn is_empty(&self) -> bool {
        self.cgroups.is_empty() && self.netns.is_empty() && self.folders.is_empty()
    }

    /// Cgroups go first, and with them the processes that would hold the rest.
    fn remove(&self) -> Result<()> {
        for path in &self.cgroups {
            cgroup::remove(path)?;
        }
        for name in &self.netns {
            netns::ip(&["netns", "del", name])?;
        }
        for path in &self.folders {
            remove_folder(path)?;
        }
        Ok(())
    }
}

fn traces_of(world: &str) -> Result<Traces> {
    Traces::find(|name| {
        name.strip_prefix(world)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    })
}

/// Removes a world's folder with the bpffs that is mounted in it.
///
/// # Errors
/// Fails when the mount is in use.
pub fn remove_folder(folder: &Path) -> Result<()> {
    let bpf = folder.join("bpf");
    if bpf.is_dir() {
        match umount2(&bpf, MntFlags::empty()) {
            Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("unmounting {}", bpf.display()));
            }
        }
    }
    fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))
}

fn maker(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

fn names_in(folder: &Path) -> Vec<String> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}
