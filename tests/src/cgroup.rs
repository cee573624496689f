//! Cgroup v2 directories with a life: made, joined by processes, and removed with all in them.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::wait;

/// Where cgroup v2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on hybrid machines.
///
/// # Errors
/// Fails where no cgroup v2 is mounted, and says how to mount it.
pub fn mount_point() -> Result<PathBuf> {
    let mounts =
        fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    mounts
        .lines()
        .find_map(|line| {
            let (mount, kind) = line.split_once(" - ")?;
            kind.starts_with("cgroup2 ")
                .then(|| mount.split(' ').nth(4).map(PathBuf::from))?
        })
        .context("no cgroup v2 is mounted; `mount -t cgroup2 cgroup2 /sys/fs/cgroup` mounts it")
}

/// A cgroup directory that is emptied and removed on drop, with those below it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes `name` directly below the mount.
    ///
    /// # Errors
    /// Fails without root or without cgroup v2.
    pub fn create(name: &str) -> Result<Self> {
        Self::at(mount_point()?.join(name))
    }

    /// Makes `name` below this one.
    ///
    /// # Errors
    /// Fails when it exists already.
    pub fn child(&self, name: &str) -> Result<Self> {
        Self::at(self.path.join(name))
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens `cgroup.procs`; a process that writes `0` to it joins.
    ///
    /// # Errors
    /// Fails when the directory is gone.
    pub fn procs(&self) -> Result<OwnedFd> {
        let file = self.path.join("cgroup.procs");
        Ok(OpenOptions::new()
            .write(true)
            .open(&file)
            .with_context(|| format!("opening {}", file.display()))?
            .into())
    }

    fn at(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path).with_context(|| format!("making the cgroup {}", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("cgroup {} stays behind: {error:#}", self.path.display());
        }
    }
}

/// Kills what runs in a cgroup and below it, and removes the directories.
///
/// # Errors
/// Says which directory could not be removed.
pub fn remove(path: &Path) -> Result<()> {
    match fs::write(path.join("cgroup.kill"), "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("killing what runs in {}", path.display()))?,
    }
    wait::wait_until("the cgroup is empty", || {
        fs::read_to_string(path.join("cgroup.events"))
            .is_ok_and(|events| events.contains("populated 0"))
    })?;
    remove_directories(path)
}

fn remove_directories(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_directories(&entry.path())?;
        }
    }
    // A zombie that its parent has not reaped yet can hold an empty cgroup for an instant.
    wait::until(
        "the cgroup can be removed",
        wait::patience(10),
        || {
            fs::remove_dir(path)
                .map(Some)
                .with_context(|| format!("removing {}", path.display()))
        },
        String::new,
    )
}
