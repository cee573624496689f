//! What was last told of trust, on disk, so that an agent that starts while the
//! authority is away trusts whom it trusted, and can still check the authority itself
//! after its roots were exchanged. Read and written by [`super::follow`].

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::ca::api::TrustMessage;
use crate::ca::{CaError, disk};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    /// Whose word it is. Another authority's says nothing.
    endpoint: String,
    trust: TrustMessage,
}

/// Why it cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum SavedError {
    #[error("cannot {action} {path}: {source}")]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Write(#[from] CaError),
    #[error(
        "{path} can be written by others (mode {mode:04o}, owner {owner}): remove it, the authority tells it again"
    )]
    Permissions {
        path: PathBuf,
        mode: u32,
        owner: u32,
    },
    #[error("{path} is damaged: {source}; remove it, the authority tells it again")]
    Malformed {
        path: PathBuf,
        source: serde_json::Error,
    },
}

/// What `endpoint` told last, if anything.
pub(super) fn read(state_dir: &Path, endpoint: &str) -> Result<Option<TrustMessage>, SavedError> {
    let path = path(state_dir);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", &path)(error)),
    };
    let metadata = file.metadata().map_err(failed("inspect", &path))?;
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    if mode & 0o022 != 0 || owner != nix::unistd::geteuid().as_raw() {
        return Err(SavedError::Permissions { path, mode, owner });
    }
    match serde_json::from_reader::<_, Saved>(io::BufReader::new(file)) {
        Ok(saved) => Ok((saved.endpoint == endpoint).then_some(saved.trust)),
        Err(source) => Err(SavedError::Malformed { path, source }),
    }
}

/// Keeps what `endpoint` told: a crash leaves this or the last.
pub(super) fn write(
    state_dir: &Path,
    endpoint: &str,
    trust: TrustMessage,
) -> Result<(), SavedError> {
    let path = path(state_dir);
    let saved = Saved {
        endpoint: endpoint.to_owned(),
        trust,
    };
    let text = serde_json::to_vec(&saved).map_err(|source| SavedError::Malformed {
        path: path.clone(),
        source,
    })?;
    disk::make_dir(&state_dir.join("trust"))?;
    Ok(disk::replace(&path, &text, 0o600)?)
}

/// Removes what agents have saved of trust in `state_dir`, and its folder if nothing else is in it.
///
/// # Errors
/// Those of the system, but for what is gone already.
pub fn forget(state_dir: &Path) -> io::Result<()> {
    let path = path(state_dir);
    for removed in [
        std::fs::remove_file(&path),
        std::fs::remove_dir(state_dir.join("trust")),
    ] {
        match removed {
            Err(error)
                if ![io::ErrorKind::NotFound, io::ErrorKind::DirectoryNotEmpty]
                    .contains(&error.kind()) =>
            {
                return Err(error);
            }
            _ => {}
        }
    }
    Ok(())
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("trust").join("own.json")
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SavedError {
    let path = path.to_owned();
    move |source| SavedError::Io {
        action,
        path,
        source,
    }
}
