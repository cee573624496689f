//! Where the configuration comes from, and what every source tells. The agent's control
//! loop owns a [`Source`] and waits for its changes.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::folder::FolderSource;
use super::kube::{KubeHealth, KubeSource};
use crate::model::{Problem, UnreadKind, World};

/// One reading of the configuration.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The world as it now is.
    pub world: Arc<World>,
    /// Everything that is wrong, of files and objects, in a fixed order.
    pub problems: Vec<Problem>,
    /// False when something could not be read and has no last good version (a file,
    /// or a pod of this node): that a pod is absent or not to be enrolled then proves
    /// nothing, so whatever was in place for it had better stay.
    pub complete: bool,
    /// False, besides, when a pod that is to be enrolled was not found on the node: what
    /// an earlier agent enrolled and nobody names may be this pod.
    pub all_found: bool,
    /// Every policy that the Kubernetes API has; none of a folder.
    pub policies: Arc<[PolicyVersion]>,
}

/// The newest version of a policy in the Kubernetes API, whether it could be read or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyVersion {
    /// What it is.
    pub kind: UnreadKind,
    /// `metadata.namespace`
    pub namespace: Arc<str>,
    /// `metadata.name`
    pub name: Arc<str>,
    /// `metadata.generation`; 0 where the API server says none.
    pub generation: i64,
    /// Why this version cannot be read; empty if it can. What is wrong with it otherwise is
    /// among [`Loaded::problems`].
    pub unread: Vec<Problem>,
}

/// Why a source cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is not there, not a directory, or not readable.
    #[error("cannot read the configuration directory {dir}: {source}")]
    Directory {
        /// As it was given.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No inotify instance or watch is to be had.
    #[error(
        "cannot watch the configuration directory {dir}: {source} (fs.inotify.max_user_instances and max_user_watches are the usual limits)"
    )]
    Watch {
        /// As it was given.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is nothing to call a pod's node by.
    #[error(
        "the node has no name; give it with --node as the pods' spec.nodeName has it (in a pod, from the field spec.nodeName)"
    )]
    NoNode,
}

/// A source of configuration.
pub enum Source {
    /// A folder of files.
    Folder(FolderSource),
    /// The Kubernetes API.
    Kube(KubeSource),
}

impl Source {
    /// The first time waits until there is something to go by; later until something
    /// means something else than before. May be dropped at any time: the next call goes
    /// on where this one was.
    pub async fn changed(&mut self) -> Loaded {
        match self {
            Self::Folder(folder) => folder.changed().await,
            Self::Kube(kube) => kube.changed().await,
        }
    }

    /// How the Kubernetes API is heard; `None` of a folder.
    pub fn health(&self) -> Option<KubeHealth> {
        match self {
            Self::Folder(_) => None,
            Self::Kube(kube) => Some(kube.health()),
        }
    }
}
