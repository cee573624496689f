//! The root on disk. Two things must hold: agents that start together get one
//! root, and a crash at any instant leaves either no root or a whole one.
//!
//! All is done under a lock on `ca.lock`. A new root is written to `*.new` files
//! and synced; then the certificate is renamed into place, then the key. So a key
//! that is missing beside its `.new` file was being renamed, and is rolled
//! forward; `.new` files alone were never used, and are written over.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{CaError, SigningError};

/// Where the root lives.
pub(super) struct Files {
    dir: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// A root's certificate and key.
pub(super) struct Pem {
    pub(super) certificate: String,
    pub(super) key: Zeroizing<String>,
}

/// A root and where it was read from.
pub(super) struct Stored {
    pub(super) files: Files,
    pub(super) pem: Pem,
}

/// Reads the root in `dir`; writes the one that `make` makes when there is none.
pub(super) fn open_or_create(
    dir: &Path,
    make: impl FnOnce() -> Result<Pem, SigningError>,
) -> Result<Stored, CaError> {
    make_private_dir(dir)?;
    let files = Files {
        dir: dir.to_owned(),
        certificate: dir.join("ca-cert.pem"),
        key: dir.join("ca-key.pem"),
    };
    // Held to the end of this function; the kernel drops it if the agent dies.
    let _lock = lock(&dir.join("ca.lock"))?;
    roll_forward(&files)?;
    match (exists(&files.certificate)?, exists(&files.key)?) {
        (true, true) => {}
        (false, false) => write(&files, &make()?)?,
        (true, false) => return Err(incomplete(files.certificate, files.key)),
        (false, true) => return Err(incomplete(files.key, files.certificate)),
    }
    let pem = Pem {
        certificate: read(&files.certificate)?.to_string(),
        key: read_key(&files.key)?,
    };
    Ok(Stored { files, pem })
}

fn make_private_dir(dir: &Path) -> Result<(), CaError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(failed("create", dir))?;
    let metadata = fs::metadata(dir).map_err(failed("inspect", dir))?;
    refuse_other_owner(dir, &metadata)?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 != 0 {
        let path = dir.to_owned();
        return Err(CaError::DirectoryPermissions { path, mode });
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, CaError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(failed("open", path))?;
    file.lock().map_err(failed("lock", path))?;
    Ok(file)
}

fn roll_forward(files: &Files) -> Result<(), CaError> {
    let new_key = in_progress(&files.key);
    if exists(&files.certificate)? && !exists(&files.key)? && exists(&new_key)? {
        rename(&new_key, &files.key)?;
        sync_dir(&files.dir)?;
    }
    Ok(())
}

fn write(files: &Files, pem: &Pem) -> Result<(), CaError> {
    let (new_certificate, new_key) = (in_progress(&files.certificate), in_progress(&files.key));
    write_synced(&new_key, pem.key.as_bytes(), 0o600)?;
    write_synced(&new_certificate, pem.certificate.as_bytes(), 0o644)?;
    sync_dir(&files.dir)?;
    rename(&new_certificate, &files.certificate)?;
    // The order of the two renames is what `roll_forward` relies on.
    sync_dir(&files.dir)?;
    rename(&new_key, &files.key)?;
    sync_dir(&files.dir)
}

fn write_synced(path: &Path, bytes: &[u8], mode: u32) -> Result<(), CaError> {
    // A leftover may have another mode, which opening it would keep.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", path)(error));
        }
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(failed("create", path))?;
    file.write_all(bytes).map_err(failed("write", path))?;
    file.sync_all().map_err(failed("sync", path))
}

fn read_key(path: &Path) -> Result<Zeroizing<String>, CaError> {
    let (text, metadata) = read_with_metadata(path)?;
    refuse_other_owner(path, &metadata)?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(CaError::KeyPermissions { path, mode });
    }
    Ok(text)
}

fn read(path: &Path) -> Result<Zeroizing<String>, CaError> {
    Ok(read_with_metadata(path)?.0)
}

/// Reads a file and inspects the very file that was read. A root fits into 64
/// KiB; what is larger is none.
fn read_with_metadata(path: &Path) -> Result<(Zeroizing<String>, fs::Metadata), CaError> {
    const MAX: u64 = 64 * 1024;
    let file = File::open(path).map_err(failed("open", path))?;
    let metadata = file.metadata().map_err(failed("inspect", path))?;
    // Room for all of it, so that no copy is left behind by growing.
    let mut text = Zeroizing::new(String::with_capacity(metadata.len().min(MAX) as usize + 1));
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

fn exists(path: &Path) -> Result<bool, CaError> {
    path.try_exists().map_err(failed("inspect", path))
}

fn rename(from: &Path, to: &Path) -> Result<(), CaError> {
    fs::rename(from, to).map_err(failed("rename", from))
}

fn sync_dir(dir: &Path) -> Result<(), CaError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(failed("sync", dir))
}

fn in_progress(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn incomplete(present: PathBuf, missing: PathBuf) -> CaError {
    CaError::Incomplete { present, missing }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CaError {
    let path = path.to_owned();
    move |source| CaError::Io {
        action,
        path,
        source,
    }
}
