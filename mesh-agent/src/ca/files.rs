//! Certificates that somebody else issues and puts into files. The agent gives the
//! store these for the workloads that have a folder, and an authority's for the rest.
//!
//! A workload's folder is `<dir>/<namespace>/<service account>/`. It holds
//! `cert-chain.pem` (the leaf first), `key.pem` (the agent's own, mode 0600 or 0400)
//! and `root-cert.pem` (the roots that vouch for the workload's peers).
//!
//! Files are exchanged by renaming over them, by writing them, or by Kubernetes'
//! switch of `..data`. A change is looked at once it has settled: a certificate whose
//! key has not come yet is no error before both have stood still for [`SETTLED`], and
//! is never used. What cannot be used leaves what is in force where it is.

mod changes;
mod error;
mod folder;
#[cfg(test)]
mod tests;
mod tree;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, timeout_at};

use crate::identity::{
    BoxFuture, CertificateAuthority, Clock, IssueError, Issued, SpiffeId, SvidStore, TrustStore,
};
use changes::{Changes, Workload};
use tree::Tree;

pub use error::FileError;

/// How long unusable files must have stood still before they are an error.
const SETTLED: Duration = Duration::from_secs(2);

/// How long files are waited for that never stand still. Less than the store gives
/// an authority.
const PATIENCE: Duration = Duration::from_secs(20);

/// Certificates from a directory of workloads' folders.
pub struct FileCertificates {
    dir: PathBuf,
    trust: Arc<TrustStore>,
    clock: Arc<dyn Clock>,
    fallback: Option<Arc<dyn CertificateAuthority>>,
    changes: Arc<Changes>,
    watcher: AbortHandle,
}

impl FileCertificates {
    /// Opens the directory and watches it. Which DNS names may stand for a
    /// workload is asked of `trust`; workloads without a folder are left to
    /// `fallback`. To be called in a tokio runtime.
    ///
    /// # Errors
    /// When the directory cannot be listed or watched; what is in the folders is
    /// looked at when it is asked for.
    pub fn open(
        dir: &Path,
        trust: Arc<TrustStore>,
        clock: Arc<dyn Clock>,
        fallback: Option<Arc<dyn CertificateAuthority>>,
    ) -> Result<Self, FileError> {
        let tree = Tree::open(dir)?;
        let changes = Arc::new(Changes::default());
        let watcher = tokio::spawn(follow(tree, Arc::clone(&changes))).abort_handle();
        Ok(Self {
            dir: dir.to_owned(),
            trust,
            clock,
            fallback,
            changes,
            watcher,
        })
    }

    /// Has `store` ask again for the certificates whose files change, until either
    /// is dropped.
    pub fn follow(&self, store: &Arc<SvidStore>) -> JoinHandle<()> {
        let (store, domain) = (Arc::downgrade(store), self.trust.own().clone());
        let mut news = Changes::follow(&self.changes);
        tokio::spawn(async move {
            while let Some(changed) = news.next().await {
                let Some(store) = store.upgrade() else {
                    return;
                };
                for workload in changed {
                    let (namespace, account) = (&workload.namespace, &workload.service_account);
                    tracing::debug!(%namespace, %account, "certificate files changed");
                    store.renew_account(&domain, namespace, account);
                }
            }
        })
    }

    /// The folder of an identity of the mesh, if there is one.
    fn folder(&self, id: &SpiffeId) -> Option<PathBuf> {
        // Both are Kubernetes names: no separators, and never `..`.
        let folder = self.dir.join(id.namespace()).join(id.service_account());
        (id.trust_domain() == self.trust.own() && folder.is_dir()).then_some(folder)
    }

    async fn read(&self, id: &SpiffeId, folder: PathBuf) -> Result<Issued, FileError> {
        let workload = Workload::of(id);
        let patience = Instant::now() + PATIENCE;
        loop {
            let seen = self.changes.count(&workload);
            let error = match self.read_once(id, folder.clone()).await {
                Ok(issued) => return Ok(issued),
                Err(error) => error,
            };
            let still = (Instant::now() + SETTLED).min(patience);
            let changed = self.changes.later_than(&workload, seen);
            if timeout_at(still, changed).await.is_err() || Instant::now() >= patience {
                return Err(error);
            }
        }
    }

    async fn read_once(&self, id: &SpiffeId, folder: PathBuf) -> Result<Issued, FileError> {
        let names = self.trust.current().names().names(id).to_vec();
        let (id, now) = (id.clone(), self.clock.now());
        let reading = tokio::task::spawn_blocking({
            let folder = folder.clone();
            move || folder::read(&folder, &id, &names, now)
        });
        match reading.await {
            Ok(issued) => issued,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(FileError::Abandoned { folder }),
            },
        }
    }
}

/// Tells what changes for as long as it is not aborted.
async fn follow(mut tree: Tree, changes: Arc<Changes>) {
    loop {
        changes.tell(tree.changed().await);
    }
}

impl CertificateAuthority for FileCertificates {
    fn issue<'a>(&'a self, id: &'a SpiffeId) -> BoxFuture<'a, Result<Issued, IssueError>> {
        Box::pin(async move {
            let error = match (self.folder(id), &self.fallback) {
                (Some(folder), _) => match self.read(id, folder).await {
                    Ok(issued) => return Ok(issued),
                    Err(error) => error,
                },
                (None, Some(fallback)) => return fallback.issue(id).await,
                (None, None) => FileError::NoFolder {
                    folder: self.dir.join(id.namespace()).join(id.service_account()),
                },
            };
            Err(IssueError::Authority {
                id: id.clone(),
                source: Arc::new(error),
            })
        })
    }

    fn source(&self, id: &SpiffeId) -> Arc<str> {
        match (self.folder(id), &self.fallback) {
            (None, Some(fallback)) => fallback.source(id),
            (None, None) => format!("files in {}", self.dir.display()).into(),
            (Some(folder), _) => format!("files in {}", folder.display()).into(),
        }
    }
}

impl Drop for FileCertificates {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl fmt::Debug for FileCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileCertificates")
            .field("dir", &self.dir)
            .field("fallback", &self.fallback.is_some())
            .finish_non_exhaustive()
    }
}
