//! `mesh-agent clean`: removes the pins that keep programs in the kernel without an agent.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::admin::api::Status;
use crate::admin::client::{self, ClientError};
use crate::intercept::{self, InterceptError};

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
    /// The kernel refused.
    #[error(transparent)]
    Remove(#[from] InterceptError),
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
    intercept::remove_all(dir)?;
    Ok(format!(
        "removed the programs and maps pinned at {}\n",
        dir.display()
    ))
}

fn on_bpffs(dir: &Path) -> bool {
    nix::sys::statfs::statfs(dir)
        .is_ok_and(|stat| stat.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

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
