//! Which of the kinds that need not be installed the server has. Starts a follower for
//! each, and ends it when the kind is proven not to be installed any more ([`presence`]).
//! A kind that the discovery does not list keeps its follower and its objects until then; at the
//! start, the first world waits for that proof or for the kind's list.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::Client;
use kube::client::APIGroupDiscoveryList;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::backoff::Backoff;
use super::follow::{describe, follow as follow_kind};
use super::health::KubeHealth;
use super::heard::noting;
use super::kinds::{BUILT_IN, Kind, OPTIONAL};
use super::presence::{self, DEFINITIONS, Presence, Unproven};
use super::read::{Change, Update};
use crate::config::document::UNENFORCED_GROUPS;

/// How often the server is asked which kinds it has, one request that it has cached; sooner when
/// a kind is lost or comes back, or while the absence of one is not proven.
pub(super) const DISCOVER_EVERY: Duration = Duration::from_secs(60);
/// The least time between two discoveries of a server whose answer is complete.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// What the health calls this.
const NAME: &str = "discovery";

/// Never ends. The followers that it started end with it.
pub(super) async fn follow(client: Client, tell: mpsc::Sender<Update>, health: KubeHealth) {
    let mut backoff = Backoff::new(&health);
    let mut turns = health.turns();
    let asking = noting(client.clone(), NAME, &health);
    let mut watched = Watched {
        client: client.clone(),
        asking: asking.clone(),
        tell,
        health: health.clone(),
        by_name: BTreeMap::new(),
        absent: BTreeSet::new(),
    };
    loop {
        match asking.list_api_groups_aggregated().await {
            Ok(groups) => {
                health.heard(NAME);
                health.listed(NAME);
                turns.mark_unchanged();
                if watched.settle(wanted(&groups)).await {
                    backoff.reset();
                    tokio::time::sleep(ASK_AGAIN).await;
                    // A kind that is lost may have been removed, and a server that is back may
                    // be another.
                    let _ = tokio::time::timeout(DISCOVER_EVERY - ASK_AGAIN, turns.changed()).await;
                } else {
                    backoff.wait().await;
                }
            }
            Err(error) => {
                if health.failed(NAME, describe(&error)) {
                    backoff.lost();
                }
                backoff.wait().await;
            }
        }
    }
}

/// What is watched now.
struct Watched {
    client: Client,
    /// Its answers count for the discovery.
    asking: Client,
    tell: mpsc::Sender<Update>,
    health: KubeHealth,
    by_name: BTreeMap<String, Follower>,
    /// Proven not to be installed.
    absent: BTreeSet<String>,
}

/// One kind's follower, which ends with this.
struct Follower {
    kind: Kind,
    task: JoinHandle<()>,
}

impl Follower {
    /// Returns when it tells nothing any more.
    async fn end(mut self) {
        self.task.abort();
        // It ends by being aborted.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watched {
    /// Brings the followers in line with what is there. False while the absence of a kind that is
    /// not listed is not proven.
    async fn settle(&mut self, wanted: BTreeMap<String, Vec<Kind>>) -> bool {
        let mut unlisted: BTreeSet<String> = OPTIONAL.iter().map(|it| it.name()).collect();
        unlisted.extend(self.by_name.keys().cloned());
        unlisted.retain(|name| !wanted.contains_key(name));
        for (name, versions) in wanted {
            self.serve(name, versions).await;
        }
        let (mut sure, mut unreadable) = (true, None);
        for name in unlisted {
            if self.absent.contains(&name) {
                continue;
            }
            let versions = self.versions(&name);
            match presence::examine(&self.asking, &versions, is_acted_on(&name)).await {
                Presence::Served(kind) => self.serve(name, vec![kind]).await,
                Presence::Absent => self.gone(&name).await,
                Presence::Unknown(Unproven {
                    reason,
                    is_unreadable,
                }) => {
                    let is_followed = self.by_name.contains_key(&name);
                    let reason = format!("{name}: {reason}");
                    // A permission that is missing is not granted soon, and nothing waits for it.
                    sure &= is_followed && is_unreadable;
                    // A kind that is followed has a health of its own.
                    if !is_followed {
                        self.health.watched(&name, None);
                        self.health.failed(&name, reason.clone());
                    }
                    if is_unreadable {
                        unreadable.get_or_insert(reason);
                    }
                }
            }
        }
        match unreadable {
            Some(reason) => {
                self.health.failed(DEFINITIONS, reason);
            }
            None => self.health.forget(DEFINITIONS),
        }
        sure
    }

    /// The versions in which the kind may be there: that of its follower first.
    fn versions(&self, name: &str) -> Vec<Kind> {
        let followed = self.by_name.get(name).map(|it| it.kind.clone());
        let optional = OPTIONAL.iter().filter(|it| it.name() == name);
        let readable = optional.flat_map(|it| it.kinds());
        let others = readable.filter(|it| Some(it) != followed.as_ref());
        let others: Vec<_> = others.collect();
        followed.into_iter().chain(others).collect()
    }

    /// Follows a kind that is there.
    async fn serve(&mut self, name: String, versions: Vec<Kind>) {
        self.absent.remove(&name);
        let known = self.by_name.get(&name);
        if known.is_none_or(|known| !versions.contains(&known.kind)) {
            self.start(name, versions).await;
        }
    }

    async fn start(&mut self, name: String, versions: Vec<Kind>) {
        let Some(kind) = versions.into_iter().next() else {
            return;
        };
        if let Some(follower) = self.by_name.remove(&name) {
            follower.end().await;
        }
        let (client, tell, health) = (self.client.clone(), self.tell.clone(), self.health.clone());
        let task = tokio::spawn(follow_kind(client, kind.clone(), tell, health));
        self.by_name.insert(name, Follower { kind, task });
    }

    /// A definition is removed with its objects.
    async fn gone(&mut self, name: &str) {
        if let Some(follower) = self.by_name.remove(name) {
            follower.end().await;
        }
        tracing::info!(
            kind = name,
            "the kind is not installed: there are no objects of it"
        );
        if is_acted_on(name) {
            self.health.watched(name, None);
            self.health.heard(name);
            self.health.listed(name);
        } else {
            self.health.forget(name);
        }
        self.absent.insert(name.to_owned());
        // The source may have ended, and this task with it.
        let _ = self
            .tell
            .send(Update::Others(
                name.into(),
                Box::new(Change::Listed(Vec::new())),
            ))
            .await;
    }
}

/// Whether objects of the kind decide what is allowed or where connections go.
fn is_acted_on(name: &str) -> bool {
    OPTIONAL.iter().any(|it| it.name() == name)
}

/// The kinds to watch that the server has, by name, each in the versions that can be
/// read, the preferred one first.
fn wanted(groups: &APIGroupDiscoveryList) -> BTreeMap<String, Vec<Kind>> {
    let mut wanted: BTreeMap<String, Vec<Kind>> = BTreeMap::new();
    for group in &groups.items {
        let meta = group.metadata.as_ref();
        let Some(name) = meta.and_then(|meta| meta.name.as_deref()) else {
            continue;
        };
        let is_built_in = BUILT_IN.iter().any(|it| it.group == name);
        if name != "isthmus.dev" && !UNENFORCED_GROUPS.contains(&name) && !is_built_in {
            continue;
        }
        // The server's order is its preference.
        for version in &group.versions {
            for resource in &version.resources {
                let kind = resource.response_kind.as_ref();
                let kind = kind.and_then(|it| it.kind.as_deref());
                let (Some(version), Some(kind), Some(plural)) = (
                    version.version.as_deref(),
                    kind,
                    resource.resource.as_deref(),
                ) else {
                    continue;
                };
                let kind = Kind::new(name, version, kind, plural);
                if is_built_in && !BUILT_IN.iter().any(|it| it.reads(&kind)) {
                    continue;
                }
                if resource.verbs.iter().any(|verb| verb == "watch") {
                    wanted.entry(kind.name()).or_default().push(kind);
                }
            }
        }
    }
    for optional in &OPTIONAL {
        let name = optional.name();
        let rank = |kind: &Kind| optional.versions.iter().position(|it| *it == kind.version);
        if let Some(versions) = wanted.get_mut(&name) {
            // In no version that is read it is watched all the same: what is said of
            // other versions is said of its objects.
            versions.sort_by_key(|kind| rank(kind).unwrap_or(usize::MAX));
        }
    }
    wanted
}
