//! Files of an authority: private, locked, and replaced as a whole. Called by
//! [`super::layout`], which knows what the files are.
//!
//! A file is written beside its name, synced and renamed over it, and then the
//! directory is synced: a crash leaves the old file or the new one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::CaError;

/// Largest file that is read whole, in bytes. Lists of revoked certificates are
/// the largest there are: this is room for some 50,000 of them.
const MAX: u64 = 16 << 20;

/// Mode of what holds a secret.
pub(super) const SECRET: u32 = 0o600;
/// Mode of everything else; the directory is closed to others anyway.
pub(super) const PUBLIC: u32 = 0o644;

/// Makes a directory that nobody else can enter, with its parents. One that is
/// there is left as it is.
pub(super) fn make_dir(path: &Path) -> Result<(), CaError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("create", path))
}

/// Refuses a directory of somebody else, or with any of the `forbidden` bits.
pub(super) fn check_dir(path: &Path, forbidden: u32) -> Result<(), CaError> {
    let metadata = fs::metadata(path).map_err(failed("inspect", path))?;
    if !metadata.is_dir() {
        return Err(CaError::Unreadable {
            path: path.to_owned(),
            expected: "a directory",
        });
    }
    refuse_other_owner(path, &metadata)?;
    let mode = metadata.mode() & 0o7777;
    if mode & forbidden != 0 {
        let path = path.to_owned();
        return Err(CaError::DirectoryPermissions { path, mode });
    }
    Ok(())
}

/// Waits for the lock of a directory. The kernel drops it if the process dies.
pub(super) fn lock(path: &Path) -> Result<File, CaError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(SECRET)
        .open(path)
        .map_err(failed("open", path))?;
    file.lock().map_err(failed("lock", path))?;
    Ok(file)
}

/// Replaces a file, or makes it.
pub(super) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), CaError> {
    let new = in_progress(path);
    write_synced(&new, bytes, mode)?;
    rename(&new, path)
}

/// Writes a file and syncs it, in a directory that nobody looks into yet.
pub(super) fn write_synced(path: &Path, bytes: &[u8], mode: u32) -> Result<(), CaError> {
    // A leftover may have another mode, which opening it would keep.
    remove(path)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(failed("create", path))?;
    file.write_all(bytes).map_err(failed("write", path))?;
    file.sync_all().map_err(failed("sync", path))
}

/// Renames, and syncs the directory of the new name.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), CaError> {
    fs::rename(from, to).map_err(failed("rename", from))?;
    to.parent().map_or(Ok(()), sync_dir)
}

/// Syncs the names in a directory.
pub(super) fn sync_dir(dir: &Path) -> Result<(), CaError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(failed("sync", dir))
}

/// Removes a file; one that is not there is no error.
pub(super) fn remove(path: &Path) -> Result<(), CaError> {
    gone(fs::remove_file(path), path)
}

/// Removes a directory and all in it; one that is not there is no error.
pub(super) fn remove_dir(path: &Path) -> Result<(), CaError> {
    gone(fs::remove_dir_all(path), path)
}

fn gone(result: io::Result<()>, path: &Path) -> Result<(), CaError> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Names in a directory.
pub(super) fn names(dir: &Path) -> Result<Vec<String>, CaError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed("list", dir))?,
    };
    entries
        .map(|entry| Ok(entry.map_err(failed("list", dir))?.file_name()))
        .filter_map(|name| name.map(|name| name.into_string().ok()).transpose())
        .collect()
}

/// Whether there is such a file.
pub(super) fn exists(path: &Path) -> Result<bool, CaError> {
    path.try_exists().map_err(failed("inspect", path))
}

/// Reads a text.
pub(super) fn read(path: &Path) -> Result<String, CaError> {
    let (mut text, _) = read_with_metadata(path)?;
    Ok(std::mem::take(&mut *text))
}

/// Reads a private key, which nobody else can have read.
pub(super) fn read_key(path: &Path) -> Result<Zeroizing<String>, CaError> {
    let (text, metadata) = read_with_metadata(path)?;
    refuse_other_owner(path, &metadata)?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(CaError::KeyPermissions { path, mode });
    }
    Ok(text)
}

/// Reads a file and inspects the very file that was read.
fn read_with_metadata(path: &Path) -> Result<(Zeroizing<String>, fs::Metadata), CaError> {
    let file = File::open(path).map_err(failed("open", path))?;
    let metadata = file.metadata().map_err(failed("inspect", path))?;
    if metadata.len() > MAX {
        return Err(CaError::Unreadable {
            path: path.to_owned(),
            expected: "a file of an authority: it is larger than 16 MiB",
        });
    }
    // Room for all of it, so that no copy is left behind by growing.
    let mut text = Zeroizing::new(String::with_capacity(metadata.len() as usize + 1));
    file.take(MAX)
        .read_to_string(&mut text)
        .map_err(failed("read", path))?;
    Ok((text, metadata))
}

fn refuse_other_owner(path: &Path, metadata: &fs::Metadata) -> Result<(), CaError> {
    let agent = nix::unistd::geteuid().as_raw();
    if metadata.uid() == agent {
        return Ok(());
    }
    Err(CaError::Owner {
        path: path.to_owned(),
        owner: metadata.uid(),
        agent,
    })
}

/// The name under which a file is written before it takes its own.
pub(super) fn in_progress(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// The error of a system call on a file.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CaError {
    let path = path.to_owned();
    move |source| CaError::Io {
        action,
        path,
        source,
    }
}
