//! The file of node tokens on disk: replaced as a whole, under a lock, and believed
//! only when nobody else could have written it.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Entry, TokenError};
use crate::ca::disk;

/// Longest file that is read: room for some tens of thousands of tokens.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Tells one version of the file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stamp {
    Absent,
    File {
        inode: u64,
        length: u64,
        changed: (i64, i64),
    },
}

/// One reading.
pub(super) struct Contents {
    pub(super) entries: Vec<Entry>,
    pub(super) stamp: Stamp,
}

/// Which version is there now.
pub(super) fn stamp(path: &Path) -> Result<Stamp, TokenError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Stamp::of(&metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Stamp::Absent),
        Err(error) => Err(failed("inspect", path)(error)),
    }
}

/// Reads the file; one that does not exist holds no tokens.
pub(super) fn read(path: &Path) -> Result<Contents, TokenError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Contents {
                entries: Vec::new(),
                stamp: Stamp::Absent,
            });
        }
        Err(error) => return Err(failed("open", path)(error)),
    };
    let metadata = file.metadata().map_err(failed("inspect", path))?;
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    let us = nix::unistd::geteuid().as_raw();
    if mode & 0o022 != 0 || owner != us {
        return Err(TokenError::Permissions {
            path: path.to_owned(),
            mode,
            owner,
        });
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES)
        .read_to_end(&mut bytes)
        .map_err(failed("read", path))?;
    let entries = serde_json::from_slice(&bytes).map_err(|source| TokenError::Malformed {
        path: path.to_owned(),
        source,
    })?;
    Ok(Contents {
        entries,
        stamp: Stamp::of(&metadata),
    })
}

/// Held by who changes the file, until dropped. The kernel drops it if the process dies.
pub(super) fn lock(path: &Path) -> Result<File, TokenError> {
    Ok(disk::lock(&beside(path, ".lock"))?)
}

/// Puts `entries` in the file's place, synced: a crash leaves the old or the new.
pub(super) fn replace(path: &Path, entries: &[Entry]) -> Result<(), TokenError> {
    let mut text = serde_json::to_vec_pretty(entries).map_err(|source| TokenError::Malformed {
        path: path.to_owned(),
        source,
    })?;
    text.push(b'\n');
    Ok(disk::replace(path, &text, 0o600)?)
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self::File {
            inode: metadata.ino(),
            length: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TokenError {
    let path = path.to_owned();
    move |source| TokenError::Io {
        action,
        path,
        source,
    }
}
