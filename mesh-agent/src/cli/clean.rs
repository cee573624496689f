//! `mesh-agent clean`: removes the pins that keep programs in the kernel without an agent.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::admin::api::Status;
use crate::admin::client::{self, ClientError};
use crate::intercept::{self, InterceptError};
use crate::node::chain::{self, ChainError, Place};

/// Options of `mesh-agent clean`.
#[derive(Clone, Debug, Args)]
pub struct CleanArgs {
    /// Where the agent pinned its links and maps.
    #[arg(long, value_name = "DIR", default_value = super::DEFAULT_PIN_DIR)]
    pub pin_dir: PathBuf,
    /// The agent's run directory, to see that it does not run.
    #[arg(long, value_name = "DIR", default_value = super::DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,
    /// Folder of the container runtime's network configurations: the CNI plugin is taken out of
    /// them, or no pod of the node would start without an agent.
    #[arg(long, value_name = "DIR", requires = "cni_bin_dir")]
    pub cni_conf_dir: Option<PathBuf>,
    /// Folder of the container runtime's CNI plugins, from which ours is removed.
    #[arg(long, value_name = "DIR", requires = "cni_conf_dir")]
    pub cni_bin_dir: Option<PathBuf>,
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
    /// The CNI plugin stays.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The kernel refused.
    #[error(transparent)]
    Remove(#[from] InterceptError),
}

/// Takes the CNI plugin out of the chain, removes every pin under the pin directory, and says
/// what was removed.
pub(super) async fn clean(args: &CleanArgs) -> Result<String, CleanError> {
    match client::get::<Status>(&args.run_dir, "/status").await {
        Ok(Status { node, pid, .. }) => return Err(CleanError::Running { node, pid }),
        Err(ClientError::NotRunning { .. }) => {}
        Err(error) => return Err(CleanError::Unsure(error)),
    }
    let dir = &args.pin_dir;
    let pinned = dir.exists();
    if pinned && !on_bpffs(dir) {
        return Err(CleanError::NotBpf(dir.clone()));
    }
    // First: a pod that starts meanwhile is to find neither.
    let mut said = unchain(args)?;
    if pinned {
        intercept::remove_all(dir)?;
        said += "removed the programs and maps pinned at ";
    } else {
        said += "nothing is pinned at ";
    }
    Ok(format!("{said}{}\n", dir.display()))
}

fn unchain(args: &CleanArgs) -> Result<String, CleanError> {
    let (Some(conf_dir), Some(bin_dir)) = (&args.cni_conf_dir, &args.cni_bin_dir) else {
        return Ok(String::new());
    };
    let place = Place {
        conf_dir: conf_dir.clone(),
        bin_dir: bin_dir.clone(),
    };
    let changed = chain::remove(&place)?;
    let changed: Vec<_> = changed.iter().map(|it| it.display().to_string()).collect();
    Ok(match changed.is_empty() {
        true => format!("no CNI plugin of ours in {}\n", conf_dir.display()),
        false => format!("took the CNI plugin out: {}\n", changed.join(", ")),
    })
}

fn on_bpffs(dir: &Path) -> bool {
    nix::sys::statfs::statfs(dir)
        .is_ok_and(|stat| stat.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(dir: &Path) -> CleanArgs {
        CleanArgs {
            pin_dir: dir.join("pins"),
            run_dir: dir.to_owned(),
            cni_conf_dir: None,
            cni_bin_dir: None,
        }
    }

    #[tokio::test]
    async fn the_cni_plugin_goes_where_its_folders_are_named() {
        let root = tempfile::tempdir().unwrap();
        let conf = root.path().join("10-net.conflist");
        let text = r#"{"name": "net", "plugins": [{"type": "bridge"}, {"type": "isthmus"}]}"#;
        std::fs::write(&conf, text).unwrap();
        let plugin = root.path().join(crate::node::cni::PLUGIN);
        std::fs::write(&plugin, "").unwrap();

        let nothing = clean(&args(root.path())).await.unwrap();
        assert!(nothing.starts_with("nothing is pinned at"), "{nothing}");
        assert_eq!(std::fs::read_to_string(&conf).unwrap(), text);

        let args = CleanArgs {
            cni_conf_dir: Some(root.path().to_owned()),
            cni_bin_dir: Some(root.path().to_owned()),
            ..args(root.path())
        };
        let said = clean(&args).await.unwrap();
        assert!(said.starts_with("took the CNI plugin out: "), "{said}");
        let left = std::fs::read_to_string(&conf).unwrap();
        assert!(
            left.contains("bridge") && !left.contains("isthmus"),
            "{left}"
        );
        assert!(!plugin.exists());
        let again = clean(&args).await.unwrap();
        assert!(again.starts_with("no CNI plugin of ours"), "{again}");
    }

    #[tokio::test]
    async fn an_ordinary_directory_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let args = CleanArgs {
            pin_dir: root.path().to_owned(),
            ..args(root.path())
        };
        let error = clean(&args).await.unwrap_err();
        assert!(matches!(error, CleanError::NotBpf(_)), "{error}");
        assert!(root.path().exists());
    }
}
