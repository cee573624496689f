//! Which workloads' files have changed, counted, so that nobody who looks late
//! misses a change.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

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
    counts: Mutex<HashMap<Workload, u64>>,
    /// Moves with every change of any folder.
    any: watch::Sender<()>,
}

/// Tells what changes, to one listener.
pub(super) struct News {
    changes: Weak<Changes>,
    any: watch::Receiver<()>,
    told: HashMap<Workload, u64>,
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
            *counts.entry(workload).or_default() += 1;
        }
        drop(counts);
        self.any.send_replace(());
    }

    /// How often a folder has changed.
    pub(super) fn count(&self, workload: &Workload) -> u64 {
        self.counts().get(workload).copied().unwrap_or_default()
    }

    /// Completes when a folder has changed since its count was `seen`.
    pub(super) async fn later_than(&self, workload: &Workload, seen: u64) {
        let mut any = self.any.subscribe();
        // The sender is in `self`, so the wait ends with a change only.
        while self.count(workload) == seen && any.changed().await.is_ok() {}
    }

    /// What changes from now on.
    pub(super) fn follow(changes: &Arc<Self>) -> News {
        News {
            changes: Arc::downgrade(changes),
            any: changes.any.subscribe(),
            told: changes.counts().clone(),
        }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Workload, u64>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl News {
    /// The folders that have changed since the last call; `None` when nobody
    /// watches any more.
    pub(super) async fn next(&mut self) -> Option<Vec<Workload>> {
        self.any.changed().await.ok()?;
        let counts = self.changes.upgrade()?.counts().clone();
        let is_new = |(workload, count): &(&Workload, &u64)| {
            self.told.get(*workload).copied().unwrap_or_default() != **count
        };
        let changed = counts.iter().filter(is_new);
        let changed = changed.map(|(workload, _)| workload.clone()).collect();
        self.told = counts;
        Some(changed)
    }
}
