//! Which of the kinds that need not be installed the server has. Starts a follower for
//! each, and ends it when the kind's definition is removed.

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
use super::kinds::{Kind, OPTIONAL};
use super::read::{Change, Update};
use crate::config::document::UNENFORCED_GROUPS;

/// How often the server is asked which kinds it has, one request that it has cached; sooner when
/// a kind is lost or comes back.
pub(super) const DISCOVER_EVERY: Duration = Duration::from_secs(60);
/// That a kind is not there is believed when it is said twice, this far apart: a server
/// that is just starting does not know all of its own kinds, and policies that are missed
/// would be policies that do not hold.
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
        tell,
        health: health.clone(),
        by_name: BTreeMap::new(),
        missing: BTreeSet::new(),
        absent: BTreeSet::new(),
    };
    loop {
        match asking.list_api_groups_aggregated().await {
            Ok(groups) => {
                health.heard(NAME);
                health.listed(NAME);
                backoff.reset();
                turns.mark_unchanged();
                let sure = watched.settle(wanted(&groups)).await;
                tokio::time::sleep(ASK_AGAIN).await;
                if sure {
                    // A kind that is lost may have been removed, and a server that is back may
                    // be another.
                    let _ = tokio::time::timeout(DISCOVER_EVERY - ASK_AGAIN, turns.changed()).await;
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
    tell: mpsc::Sender<Update>,
    health: KubeHealth,
    by_name: BTreeMap<String, Follower>,
    /// Not there at the last look, and before that unknown or there.
    missing: BTreeSet<String>,
    /// Surely not there.
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
    /// Brings the followers in line with what is there. False if something that is not
    /// there is to be looked for again soon.
    async fn settle(&mut self, mut wanted: BTreeMap<String, Vec<Kind>>) -> bool {
        let optional = OPTIONAL.iter();
        let expected = optional.map(|it| Kind::new(it.group, "", it.kind, it.plural).name());
        let expected: BTreeSet<String> = expected.chain(self.by_name.keys().cloned()).collect();
        let mut sure = true;
        for name in expected.iter().filter(|name| !wanted.contains_key(*name)) {
            if self.absent.contains(name) {
                continue;
            }
            if self.missing.insert(name.clone()) {
                sure = false;
                continue;
            }
            self.missing.remove(name);
            self.gone(name).await;
        }
        for (name, versions) in std::mem::take(&mut wanted) {
            self.missing.remove(&name);
            self.absent.remove(&name);
            let known = self.by_name.get(&name);
            if known.is_none_or(|known| !versions.contains(&known.kind)) {
                self.start(name, versions).await;
            }
        }
        sure
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

    /// Whoever removes a definition removes its objects.
    async fn gone(&mut self, name: &str) {
        if let Some(follower) = self.by_name.remove(name) {
            follower.end().await;
        }
        tracing::info!(
            kind = name,
            "its definition is not installed: there are none"
        );
        if OPTIONAL
            .iter()
            .any(|it| Kind::new(it.group, "", it.kind, it.plural).name() == name)
        {
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

/// The kinds to watch that the server has, by name, each in the versions that can be
/// read, the preferred one first.
fn wanted(groups: &APIGroupDiscoveryList) -> BTreeMap<String, Vec<Kind>> {
    let mut wanted: BTreeMap<String, Vec<Kind>> = BTreeMap::new();
    for group in &groups.items {
        let meta = group.metadata.as_ref();
        let Some(name) = meta.and_then(|meta| meta.name.as_deref()) else {
            continue;
        };
        if name != "isthmus.dev" && !UNENFORCED_GROUPS.contains(&name) {
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
                if resource.verbs.iter().any(|verb| verb == "watch") {
                    let kind = Kind::new(name, version, kind, plural);
                    wanted.entry(kind.name()).or_default().push(kind);
                }
            }
        }
    }
    for optional in &OPTIONAL {
        let name = Kind::new(optional.group, "", optional.kind, optional.plural).name();
        let rank = |kind: &Kind| optional.versions.iter().position(|it| *it == kind.version);
        if let Some(versions) = wanted.get_mut(&name) {
            // In no version that is read it is watched all the same: what is said of
            // other versions is said of its objects.
            versions.sort_by_key(|kind| rank(kind).unwrap_or(usize::MAX));
        }
    }
    wanted
}
