//! What is to be told of the connection to the Kubernetes API: per kind, whether it was
//! listed and whether it is being heard. Written by the followers; read by the status, by the
//! gate before a pod starts, by the proxy, and by followers that wait for their next attempt.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use super::kinds;
use crate::model::Staleness;

/// What a watch missed comes in the first moment of the next one, and is in force a tenth of a
/// second later, or where the cluster is large as soon as a world is made.
pub(super) const SETTLE: Duration = Duration::from_secs(1);

/// How long a watch may be disconnected before an address of the cluster that nothing has counts
/// as one that may be a new pod's. A restart of the API server's process, the end of a watch and a
/// failover are over sooner: attempts are made after 0.25, 0.75, 1.75 and 3.75 s. A pod that
/// starts meanwhile takes about as long until its address is known to anybody.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// A handle; all clones show the same.
#[derive(Clone, Debug, Default)]
pub struct KubeHealth(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    turns: watch::Sender<Turns>,
    /// Set while what is known may be out of date; read for connections, without a lock.
    behind: ArcSwapOption<Behind>,
}

/// Since when what is known may be out of date.
#[derive(Clone, Debug)]
struct Behind {
    since: tokio::time::Instant,
    /// When what was missed is in force; `None` while a watch is disconnected.
    until: Option<tokio::time::Instant>,
    /// Which watch is disconnected, and why.
    cause: Arc<str>,
}

#[derive(Debug, Default)]
struct State {
    synced: bool,
    kinds: BTreeMap<String, KindHealth>,
    /// When a kind was last heard again, or listed in full.
    caught_up: Option<tokio::time::Instant>,
}

/// How often kinds were lost and came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// Times that one was no longer heard.
    pub lost: u64,
    /// Times that one was heard again.
    pub back: u64,
}

/// How much is heard of the kinds that decide what a pod may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hearing {
    /// All that there are.
    Whole,
    /// None.
    Nothing,
    /// Some: what is known of them does not fit together. With what is missing, in words.
    Part(String),
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
    /// Whether a list is under way.
    pub listing: bool,
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

    /// How much is heard now.
    pub fn hearing(&self) -> Hearing {
        let state = self.lock();
        let needed: Vec<String> = kinds::needed().collect();
        // One that is not installed is not heard either.
        let watched = state.kinds.values();
        let watched = watched.filter(|it| it.version.is_some() && needed.contains(&it.kind));
        let (away, heard): (Vec<_>, Vec<_>) = watched.partition(|it| it.away_since.is_some());
        let listed = heard.iter().find(|it| it.listing);
        match (away.first(), listed) {
            (Some(_), _) if heard.is_empty() => Hearing::Nothing,
            (Some(kind), _) => {
                let error = kind.error.as_deref().unwrap_or("no answer");
                Hearing::Part(format!("{} not heard: {error}", kind.kind))
            }
            (None, Some(kind)) => Hearing::Part(format!("{} being listed again", kind.kind)),
            (None, None) => match state.caught_up {
                Some(at) if at.elapsed() < SETTLE => {
                    Hearing::Part("what was missed is on its way".to_owned())
                }
                _ => Hearing::Whole,
            },
        }
    }

    /// Set while what is known of the cluster's addresses has been out of date for longer than
    /// [`GRACE`]. Takes no lock.
    pub fn staleness(&self) -> Option<Staleness> {
        let behind = self.0.behind.load();
        let behind = behind.as_ref()?;
        let is_over = behind
            .until
            .is_some_and(|at| at <= tokio::time::Instant::now());
        let elapsed = behind.since.elapsed();
        (!is_over && elapsed >= GRACE).then(|| Staleness {
            seconds: elapsed.as_secs(),
            cause: Arc::clone(&behind.cause),
        })
    }

    /// Waits until what is known fits together: all is heard, and what was missed is in force, or
    /// nothing is heard.
    pub async fn settled(&self) {
        let mut turns = self.turns();
        while matches!(self.hearing(), Hearing::Part(_)) {
            // Time alone settles what came back last.
            let _ = tokio::time::timeout(SETTLE, turns.changed()).await;
        }
    }

    /// Tells of kinds that are lost and come back.
    pub fn turns(&self) -> watch::Receiver<Turns> {
        self.0.turns.subscribe()
    }

    pub(super) fn set_synced(&self, synced: bool) {
        self.lock().synced = synced;
    }

    /// The server answered about a kind.
    pub(crate) fn heard(&self, kind: &str) {
        let back = self.with(kind, |health| {
            health.error = None;
            health.away_since.take()
        });
        if let Some(since) = back {
            self.0.turns.send_modify(|turns| turns.back += 1);
            let seconds = since.elapsed().as_secs();
            tracing::info!(kind, away_s = seconds, "the Kubernetes API is heard again");
        }
    }

    /// An attempt failed. True if the kind was heard until then.
    pub(crate) fn failed(&self, kind: &str, error: String) -> bool {
        let first = self.with(kind, |health| {
            let first = health.away_since.is_none();
            health.away_since.get_or_insert_with(Instant::now);
            health.error = Some(error.clone());
            first
        });
        if first {
            self.0.turns.send_modify(|turns| turns.lost += 1);
            tracing::warn!(
                kind,
                error,
                "the Kubernetes API is not heard: what is known stays in force"
            );
        }
        first
    }

    /// A kind is watched in this version, or not there to be watched.
    pub(crate) fn watched(&self, kind: &str, version: Option<&str>) {
        self.with(kind, |health| health.version = version.map(str::to_owned));
    }

    /// A kind is being listed.
    pub(super) fn lists(&self, kind: &str) {
        self.with(kind, |health| health.listing = true);
    }

    /// A kind was listed in full, or is known not to be there.
    pub(crate) fn listed(&self, kind: &str) {
        self.with(kind, |health| {
            health.synced = true;
            health.listing = false;
        });
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
        let behind = |health: &KindHealth| health.away_since.is_some() || health.listing;
        let (synced, was_behind) = (health.synced, behind(health));
        let changed = change(health);
        let is_behind = behind(health);
        if synced && was_behind && !is_behind {
            state.caught_up = Some(tokio::time::Instant::now());
        }
        if was_behind || is_behind {
            self.note_behind(&state);
        }
        changed
    }

    /// Notes whether a watch that decides where connections go is disconnected or listed again.
    fn note_behind(&self, state: &State) {
        let needed: Vec<String> = kinds::needed().collect();
        let cause = state.kinds.values().find_map(|it| {
            let is_watched = it.version.is_some() && needed.contains(&it.kind);
            let error = it.error.as_deref();
            match (it.away_since, it.listing) {
                _ if !is_watched => None,
                (Some(_), _) => Some(format!("{}: {}", it.kind, error.unwrap_or("no answer"))),
                (None, true) => Some(format!("{}: being listed again", it.kind)),
                (None, false) => None,
            }
        });
        let now = tokio::time::Instant::now();
        let before = self.0.behind.load_full();
        let lasting = before.filter(|it| it.until.is_none_or(|at| at > now));
        let behind = match (cause, lasting) {
            (Some(cause), lasting) => Behind {
                since: lasting.map_or(now, |it| it.since),
                until: None,
                cause: cause.into(),
            },
            (None, Some(lasting)) => Behind {
                until: lasting.until.or(Some(now + SETTLE)),
                ..(*lasting).clone()
            },
            (None, None) => return self.0.behind.store(None),
        };
        self.0.behind.store(Some(Arc::new(behind)));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
