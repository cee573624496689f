//! The folder source on real directories, with the real inotify.

mod cache;
mod document;
mod folder;
mod local;

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A directory of configuration, removed with the value.
struct Folder {
    /// Holds `dir` and whatever a test puts beside it.
    root: TempDir,
    dir: PathBuf,
}

impl Folder {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        let dir = root.path().join("mesh.d");
        fs::create_dir(&dir).unwrap();
        Self { root, dir }
    }

    fn with(files: &[(&str, &str)]) -> Self {
        let folder = Self::new();
        for (name, text) in files {
            folder.write(name, text);
        }
        folder
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// As an editor or `kubectl`-like tool does: beside it, then over it.
    fn replace(&self, name: &str, text: &str) {
        let beside = self.root.path().join("beside");
        fs::write(&beside, text).unwrap();
        fs::rename(&beside, self.path(name)).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }
}

fn link(target: impl AsRef<Path>, at: impl AsRef<Path>) {
    std::os::unix::fs::symlink(target, at).unwrap();
}

/// A pod of another node: known, not enrolled here.
fn pod(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{nodeName: node-b}}\nstatus: {{podIP: {ip}}}\n"
    )
}
