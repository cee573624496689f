//! Which workloads' files have changed since they were last asked for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::identity::SpiffeId;

/// Whose a folder is, as its path says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Workload {
    pub(super) namespace: Arc<str>,
    pub(super) service_account: Arc<str>,
}

/// Counts the changes of each folder.
#[derive(Debug, Default)]
pub(super) struct Changes {
    counts: Mutex<HashMap<Workload, Counts>>,
    /// Moves with every change of any folder.
    any: watch::Sender<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    changed: u64,
    /// What `changed` was when the files were last read, or looked for.
    asked: u64,
}

impl Workload {
    pub(super) fn of(id: &SpiffeId) -> Self {
        Self {
            namespace: id.namespace().into(),
            service_account: id.service_account().into(),
        }
    }
}

impl Changes {
    /// Counts a change of each of these.
    pub(super) fn tell(&self, changed: impl IntoIterator<Item = Workload>) {
        let mut counts = self.counts();
        for workload in changed {
            counts.entry(workload).or_default().changed += 1;
        }
        drop(counts);
        self.any.send_replace(());
    }

    /// Notes that the files are about to be read, and gives their count.
    pub(super) fn asked(&self, workload: &Workload) -> u64 {
        let mut counts = self.counts();
        let counts = counts.entry(workload.clone()).or_default();
        counts.asked = counts.changed;
        counts.changed
    }

    /// Completes when the files have changed since their count was `seen`.
    pub(super) async fn later_than(&self, workload: &Workload, seen: u64) {
        self.until(|| self.of(workload).changed != seen).await;
    }

    /// Completes when the files have changed since they were last asked for.
    pub(super) async fn later_than_asked(&self, workload: &Workload) {
        let is_later = || {
            let counts = self.of(workload);
            counts.changed != counts.asked
        };
        self.until(is_later).await;
    }

    async fn until(&self, is_so: impl Fn() -> bool) {
        let mut any = self.any.subscribe();
        while !is_so() {
            if any.changed().await.is_err() {
                // Not while `self`, which has the sender, is borrowed.
                return;
            }
        }
    }

    fn of(&self, workload: &Workload) -> Counts {
        self.counts().get(workload).copied().unwrap_or_default()
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Workload, Counts>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
