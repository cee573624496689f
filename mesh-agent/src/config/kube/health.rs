//! What is to be told of the connection to the Kubernetes API: per kind, whether it was
//! listed and whether it is being heard. Written by the followers, read by the status.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A handle; all clones show the same.
#[derive(Clone, Debug, Default)]
pub struct KubeHealth(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    synced: bool,
    kinds: BTreeMap<String, KindHealth>,
}

/// How one kind is heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KindHealth {
    /// The resource: `pods`, `meshconfigs.isthmus.dev`; or `discovery`.
    pub kind: String,
    /// The version that is watched; `None` while its definition is not installed.
    pub version: Option<String>,
    /// Whether it was listed in full at least once, or is known not to be installed.
    pub synced: bool,
    /// Since when it is not heard; `None` while it is.
    pub away_since: Option<Instant>,
    /// Why, as the last attempt failed.
    pub error: Option<String>,
}

impl KubeHealth {
    /// Whether everything was listed once, so that there is a world.
    pub fn is_synced(&self) -> bool {
        self.lock().synced
    }

    /// Every kind, by name.
    pub fn kinds(&self) -> Vec<KindHealth> {
        self.lock().kinds.values().cloned().collect()
    }

    /// Since when something is not heard, and why; `None` while everything is.
    pub fn away(&self) -> Option<(Instant, String)> {
        let state = self.lock();
        let away = state.kinds.values().filter_map(|kind| {
            let error = kind.error.clone().unwrap_or_default();
            Some((kind.away_since?, format!("{}: {error}", kind.kind)))
        });
        away.min_by_key(|(since, _)| *since)
    }

    pub(super) fn set_synced(&self, synced: bool) {
        self.lock().synced = synced;
    }

    /// The server answered about a kind.
    pub(super) fn heard(&self, kind: &str) {
        let back = self.with(kind, |health| {
            health.error = None;
            health.away_since.take()
        });
        if let Some(since) = back {
            let seconds = since.elapsed().as_secs();
            tracing::info!(kind, away_s = seconds, "the Kubernetes API is heard again");
        }
    }

    /// An attempt failed.
    pub(super) fn failed(&self, kind: &str, error: String) {
        let first = self.with(kind, |health| {
            let first = health.away_since.is_none();
            health.away_since.get_or_insert_with(Instant::now);
            health.error = Some(error.clone());
            first
        });
        if first {
            tracing::warn!(
                kind,
                error,
                "the Kubernetes API is not heard: what is known stays in force"
            );
        }
    }

    /// A kind is watched in this version, or not there to be watched.
    pub(super) fn watched(&self, kind: &str, version: Option<&str>) {
        self.with(kind, |health| health.version = version.map(str::to_owned));
    }

    /// A kind was listed in full, or is known not to be there.
    pub(super) fn listed(&self, kind: &str) {
        self.with(kind, |health| health.synced = true);
    }

    /// A kind is of no interest any more.
    pub(super) fn forget(&self, kind: &str) {
        self.lock().kinds.remove(kind);
    }

    fn with<T>(&self, kind: &str, change: impl FnOnce(&mut KindHealth) -> T) -> T {
        let mut state = self.lock();
        let health = state
            .kinds
            .entry(kind.to_owned())
            .or_insert_with(|| KindHealth {
                kind: kind.to_owned(),
                ..KindHealth::default()
            });
        change(health)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
