//! The contents of an image: programs of this machine with the libraries that they load.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::command::Run;

/// A folder that becomes an image.
#[derive(Debug)]
pub(crate) struct Root {
    folder: PathBuf,
}

impl Root {
    /// An empty one, with a `/tmp` for everybody.
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        super::clear(folder)?;
        let root = Self {
            folder: folder.to_owned(),
        };
        root.folder_for_all("tmp")?;
        Ok(root)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }

    /// Makes a folder.
    pub(crate) fn folder(&self, path: &str) -> Result<()> {
        let folder = self.folder.join(path);
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))
    }

    /// Makes a folder in which every user may make files.
    pub(crate) fn folder_for_all(&self, path: &str) -> Result<()> {
        self.folder(path)?;
        let all = fs::Permissions::from_mode(0o1777);
        fs::set_permissions(self.folder.join(path), all)
            .with_context(|| format!("opening {path} to all"))
    }

    /// Writes a file that can be run.
    pub(crate) fn script(&self, path: &str, text: &str) -> Result<()> {
        self.file(path, text)?;
        let run = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.folder.join(path), run)
            .with_context(|| format!("making {path} run"))
    }

    /// Makes a symbolic link to `target`.
    pub(crate) fn link(&self, target: &Path, path: &str) -> Result<()> {
        symlink(target, self.at(path)?).with_context(|| format!("linking {path}"))
    }

    /// Writes a file.
    pub(crate) fn file(&self, path: &str, text: &str) -> Result<()> {
        let file = self.at(path)?;
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
    }

    /// A program without its debug information, under `path`, with the libraries that it loads
    /// in the places where it looks for them.
    pub(crate) fn program(&self, program: &Path, path: &str) -> Result<()> {
        self.stripped("strip", program, path)?;
        self.libraries_of(program)
    }

    /// A program alone, without its debug information, which `strip` takes out.
    pub(crate) fn stripped(&self, strip: &str, program: &Path, path: &str) -> Result<()> {
        ensure!(program.is_file(), "{} is not there", program.display());
        let target = self.at(path)?;
        Run::new(strip)
            .words("--strip-debug -o")
            .arg(&target)
            .arg(program)
            .output()?;
        fs::set_permissions(&target, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("making {path} run"))
    }

    /// The libraries that a program or a library loads.
    pub(crate) fn libraries_of(&self, program: &Path) -> Result<()> {
        // ldd fails for what is statically linked: there is nothing to bring then.
        let told = Run::new("ldd").arg(program).output().unwrap_or_default();
        let paths: BTreeSet<_> = told
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
            .collect();
        for path in paths {
            self.copy(Path::new(path))?;
        }
        Ok(())
    }

    /// A file of this machine, in the same place.
    pub(crate) fn copy(&self, path: &Path) -> Result<()> {
        let target = self.at(&path.to_string_lossy())?;
        fs::copy(path, &target)
            .map(drop)
            .with_context(|| format!("copying {}", path.display()))
    }

    /// A folder of this machine with all in it, in the same place.
    pub(crate) fn copy_folder(&self, path: &Path) -> Result<()> {
        let target = self.at(&path.to_string_lossy())?;
        Run::new("cp")
            .words("--recursive --dereference --no-target-directory")
            .arg(path)
            .arg(target)
            .output()
            .map(drop)
    }

    /// busybox under each of its names in `/bin`, but those that are there already.
    pub(crate) fn busybox(&self) -> Result<()> {
        self.program(Path::new("/bin/busybox"), "bin/busybox")?;
        let names = Run::new("/bin/busybox").arg("--list").output()?;
        for name in names.lines().filter(|name| *name != "busybox") {
            let link = self.folder.join("bin").join(name);
            if !link.exists() {
                symlink("busybox", &link).with_context(|| format!("linking {name}"))?;
            }
        }
        Ok(())
    }

    fn at(&self, path: &str) -> Result<PathBuf> {
        let file = self.folder.join(path.trim_start_matches('/'));
        let folder = file.parent().context("a file lies in a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(file)
    }
}
