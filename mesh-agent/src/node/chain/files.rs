//! The runtime's folders: which files count, and replacing one so that the runtime finds the
//! old or the new, never a part.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use super::ChainError;

/// Largest configuration that is read, in bytes.
const MAX: u64 = 1 << 20;

/// The network configurations of a folder, in the order in which a runtime looks; none when
/// there is no folder yet.
pub(super) fn configurations(dir: &Path) -> Result<Vec<PathBuf>, ChainError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", dir)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed("list", dir))?.path();
        let counts = path.extension().and_then(OsStr::to_str);
        // As libcni's ConfFiles has it; a folder of such a name is none.
        if matches!(counts, Some("conf" | "conflist" | "json")) && !path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The text of a configuration.
pub(super) fn read(path: &Path) -> io::Result<String> {
    // Without waiting for a writer, were it a pipe.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    let mut text = String::new();
    file.take(MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Puts `text` at `path`, with the owner and the mode of `like`.
pub(super) fn replace(path: &Path, text: &str, like: &Path) -> Result<(), ChainError> {
    let like = fs::metadata(like).map_err(failed("look at", like))?;
    put(path, &mut text.as_bytes(), like.mode() & 0o7777, |file| {
        fchown(file, Some(like.uid()), Some(like.gid()))
    })
}

/// Copies an executable to `path`, unless the very same is there; whether it was copied.
pub(super) fn install(executable: &Path, path: &Path) -> Result<bool, ChainError> {
    let mut source = File::open(executable).map_err(failed("open", executable))?;
    if File::open(path).is_ok_and(|there| same(&source, &there).unwrap_or(false)) {
        return Ok(false);
    }
    // It was read for the comparison.
    io::Seek::rewind(&mut source).map_err(failed("read", executable))?;
    put(path, &mut source, 0o755, |_| Ok(()))?;
    Ok(true)
}

/// Removes a file; whether it was there.
pub(super) fn remove(path: &Path) -> Result<bool, ChainError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("remove", path)(error)),
    }
}

fn put(
    path: &Path,
    from: &mut dyn Read,
    mode: u32,
    own: impl FnOnce(&File) -> io::Result<()>,
) -> Result<(), ChainError> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(failed("write", path)(io::ErrorKind::InvalidInput.into()));
    };
    // No runtime reads a file with such a name.
    let new = dir.join(format!(".{}.isthmus-new", name.display()));
    remove(&new)?;
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        io::copy(from, &mut file)?;
        own(&file)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.flush()?;
        file.sync_all()?;
        drop(file);
        fs::rename(&new, path)?;
        File::open(dir)?.sync_all()
    })();
    written.map_err(|error| {
        // The first failure is the one to tell.
        let _ = fs::remove_file(&new);
        failed("write", path)(error)
    })
}

fn same(one: &File, other: &File) -> io::Result<bool> {
    let (size, mode) = (one.metadata()?.len(), other.metadata()?.mode());
    if size != other.metadata()?.len() || mode & 0o111 != 0o111 {
        return Ok(false);
    }
    let (mut one, mut other) = (io::BufReader::new(one), io::BufReader::new(other));
    let (mut left, mut right) = ([0; 1 << 16], [0; 1 << 16]);
    let mut rest = size;
    while rest > 0 {
        let part = usize::try_from(rest).map_or(left.len(), |rest| rest.min(left.len()));
        one.read_exact(&mut left[..part])?;
        other.read_exact(&mut right[..part])?;
        if left[..part] != right[..part] {
            return Ok(false);
        }
        rest -= part as u64;
    }
    Ok(true)
}

pub(super) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ChainError {
    let path = path.to_owned();
    move |source| ChainError::File { what, path, source }
}
