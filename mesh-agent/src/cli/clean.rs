//! `mesh-agent clean`: removes the pins that keep programs in the kernel without an agent.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::admin::api::Status;
use crate::admin::client::{self, ClientError};

/// Options of `mesh-agent clean`.
#[derive(Clone, Debug, Args)]
pub struct CleanArgs {
    /// Where the agent pinned its links and maps.
    #[arg(long, value_name = "DIR", default_value = super::DEFAULT_PIN_DIR)]
    pub pin_dir: PathBuf,
    /// The agent's run directory, to see that it does not run.
    #[arg(long, value_name = "DIR", default_value = super::DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,
}

/// Why nothing, or not everything, was removed.
#[derive(Debug, thiserror::Error)]
pub enum CleanError {
    /// The agent runs.
    #[error(
        "the agent of node {node} (pid {pid}) is running: stop it first, or its pods would be left unguarded"
    )]
    Running {
        /// Its node.
        node: String,
        /// Its process.
        pid: u32,
    },
    /// Somebody answers, but not as an agent does.
    #[error("cannot tell whether an agent is running: {0}")]
    Unsure(ClientError),
    /// The directory holds what no agent put there.
    #[error("{} is not on a BPF file system: refusing to remove it", .0.display())]
    NotBpf(PathBuf),
    /// The system refused.
    #[error("cannot remove {}: {source}", path.display())]
    Remove {
        /// What was to be removed.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Removes every pin under the pin directory, and says what was removed.
pub(super) async fn clean(args: &CleanArgs) -> Result<String, CleanError> {
    match client::get::<Status>(&args.run_dir, "/status").await {
        Ok(Status { node, pid, .. }) => return Err(CleanError::Running { node, pid }),
        Err(ClientError::NotRunning { .. }) => {}
        Err(error) => return Err(CleanError::Unsure(error)),
    }
    let dir = &args.pin_dir;
    if !dir.exists() {
        return Ok(format!("nothing is pinned at {}\n", dir.display()));
    }
    if !on_bpffs(dir) {
        return Err(CleanError::NotBpf(dir.clone()));
    }
    let removed = remove(dir)?;
    Ok(format!(
        "removed {removed} pinned objects from {}\n",
        dir.display()
    ))
}

fn on_bpffs(dir: &Path) -> bool {
    nix::sys::statfs::statfs(dir)
        .is_ok_and(|stat| stat.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC)
}

/// Removes a directory with all below it, links first, and counts the objects. The links
/// go before the maps, so that no program ever decides on missing entries.
fn remove(dir: &Path) -> Result<usize, CleanError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| CleanError::Remove { path, source }
    };
    let mut entries = fs::read_dir(dir)
        .and_then(Iterator::collect::<io::Result<Vec<_>>>)
        .map_err(failed(dir))?;
    entries.sort_by_key(|entry| {
        (
            !entry.file_name().as_encoded_bytes().starts_with(b"link"),
            entry.file_name(),
        )
    });
    let mut removed = 0;
    for entry in entries {
        let path = entry.path();
        if entry.file_type().map_err(failed(&path))?.is_dir() {
            removed += remove(&path)?;
        } else {
            fs::remove_file(&path).map_err(failed(&path))?;
            removed += 1;
        }
    }
    fs::remove_dir(dir).map_err(failed(dir))?;
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_below_goes_and_is_counted() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("isthmus");
        for path in ["links/connect4", "links/guard", "maps/PODS"] {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        assert_eq!(remove(&dir).unwrap(), 3);
        assert!(!dir.exists() && root.path().exists());
    }

    #[tokio::test]
    async fn an_ordinary_directory_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let args = CleanArgs {
            pin_dir: root.path().to_owned(),
            run_dir: root.path().to_owned(),
        };
        let error = clean(&args).await.unwrap_err();
        assert!(matches!(error, CleanError::NotBpf(_)), "{error}");
        assert!(root.path().exists());
    }
}
