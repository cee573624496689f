//! The folder of a world, of `mesh` and of the bench: what agents read and write, and a bpffs of
//! its own for their pins.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

use crate::leftovers::{self, remove_folder};

/// A folder with a life; removed on drop.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes it with these folders in it, and with `bpf`, where a bpffs is mounted.
    ///
    /// # Errors
    /// Fails without root, and when something of this name is there already.
    pub fn create(name: &str, parts: &[&str]) -> Result<Self> {
        let folder = Self(leftovers::folder(name));
        let bpf = folder.0.join("bpf");
        // Its parent may be anybody's: what somebody else put there beforehand is not used.
        for part in [&[""], parts, &["bpf"]].concat() {
            let path = folder.0.join(part);
            fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        }
        mount(
            Some("bpf"),
            &bpf,
            Some("bpf"),
            MsFlags::empty(),
            None::<&Path>,
        )
        .context("mounting a bpffs: is this root, on a kernel with BPF?")?;
        Ok(folder)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = remove_folder(&self.0) {
            eprintln!("{} stays behind: {error:#}", self.0.display());
        }
    }
}
