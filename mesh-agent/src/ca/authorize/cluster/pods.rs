//! Which service accounts run on which node: what the API server tells of all pods, cut
//! down to that. Owned by [`super::ClusterAuthorizer`].
//!
//! The watch answers most questions without asking anybody. What it does not know, or
//! while it may be behind, the API server is asked at once: an agent may know a new pod
//! before the authority does. While it is away, what the watch told last is what is known.
//!
//! A pod without a service account, such as the mirror of a static pod, has no identity: a
//! kubelet may make one in any namespace, and must not become somebody by it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::TryStreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, ApiResource, ListParams, Object};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;

use super::{Refusal, failed};
use crate::heap;

/// A service account on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place<'a> {
    pub(super) node: &'a str,
    pub(super) namespace: &'a str,
    pub(super) account: &'a str,
}

/// As much of a pod as is read; the rest is never kept.
type Slim = Object<Spec, Status>;

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: String,
    service_account_name: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Status {
    phase: String,
}

/// The pods of the cluster, followed until this is dropped.
pub(super) struct Pods {
    client: Client,
    known: Arc<RwLock<Known>>,
    follower: AbortHandle,
}

impl Pods {
    pub(super) fn follow(client: Client) -> Self {
        let known = Arc::default();
        let follower = tokio::spawn(follow(client.clone(), Arc::clone(&known)));
        Self {
            client,
            known,
            follower: follower.abort_handle(),
        }
    }

    /// Whether the watch knows such a pod, and is not known to be behind.
    pub(super) fn knows(&self, wanted: &Place<'_>) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.current && known.placed.holds(wanted)
    }

    /// Whether there was such a pod when pods were last heard of, however long ago.
    pub(super) fn knew(&self, wanted: &Place<'_>) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.placed.holds(wanted)
    }

    /// The same for the one pod of this UID.
    pub(super) fn knew_pod(&self, uid: &str, at: &Place<'_>) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.placed.holds_pod(uid, at)
    }

    /// Whether the API server knows such a pod.
    pub(super) async fn ask(&self, wanted: &Place<'_>) -> Result<bool, Refusal> {
        let pods: Api<Slim> =
            Api::namespaced_with(self.client.clone(), wanted.namespace, &resource());
        let fields = format!(
            "spec.nodeName={},spec.serviceAccountName={},\
             status.phase!=Succeeded,status.phase!=Failed",
            wanted.node, wanted.account
        );
        let params = ListParams::default().fields(&fields).limit(1);
        let found = pods.list(&params).await;
        let found = found.map_err(failed("list the pods of a node"))?;
        // What was asked for is not taken for what was answered.
        Ok(found.items.iter().any(|pod| place(pod) == Some(*wanted)))
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

#[derive(Default)]
struct Known {
    placed: Placed,
    /// A new list, while it comes.
    fresh: Placed,
    /// There was a whole list, and no error since the last event.
    current: bool,
}

async fn follow(client: Client, known: Arc<RwLock<Known>>) {
    let api: Api<Slim> = Api::all_with(client, &resource());
    let mut events = pin!(watcher(api, watcher::Config::default()).default_backoff());
    loop {
        let event = events.try_next().await;
        let mut known = known.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            Ok(Some(event)) => known.take(event),
            Ok(None) => return,
            Err(error) => {
                if std::mem::take(&mut known.current) {
                    tracing::warn!(%error, "the pods of the cluster cannot be watched: they are asked for one by one until they can");
                }
            }
        }
    }
}

impl Known {
    fn take(&mut self, event: Event<Slim>) {
        match event {
            Event::Init => self.fresh = Placed::default(),
            Event::InitApply(pod) => self.fresh.put(&pod),
            Event::InitDone => {
                self.placed = std::mem::take(&mut self.fresh);
                self.current = true;
                heap::trim();
                tracing::info!(
                    pods = self.placed.by_uid.len(),
                    "the cluster's pods are known"
                );
            }
            Event::Apply(pod) => {
                self.placed.put(&pod);
                self.current = true;
            }
            Event::Delete(pod) => {
                self.placed.remove(uid(&pod));
                self.current = true;
            }
        }
    }
}

/// Where each pod is, and what is anywhere. Pods of one account on one node share the
/// texts; an entry for a pod is some 120 bytes.
#[derive(Default)]
struct Placed {
    by_uid: HashMap<Box<str>, Key>,
    counts: HashMap<Key, u32>,
}

/// `node/namespace/account`: none of them has a slash in it.
type Key = Arc<str>;

impl Placed {
    fn put(&mut self, pod: &Slim) {
        self.remove(uid(pod));
        let Some(place) = place(pod) else { return };
        let key: Key = key(&place).into();
        let key = match self.counts.entry(key) {
            Entry::Occupied(mut there) => {
                *there.get_mut() += 1;
                Arc::clone(there.key())
            }
            Entry::Vacant(new) => {
                let key = Arc::clone(new.key());
                new.insert(1);
                key
            }
        };
        self.by_uid.insert(uid(pod).into(), key);
    }

    fn remove(&mut self, uid: &str) {
        let Some(key) = self.by_uid.remove(uid) else {
            return;
        };
        if let Entry::Occupied(mut count) = self.counts.entry(key) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    fn holds(&self, wanted: &Place<'_>) -> bool {
        is_whole(wanted) && self.counts.contains_key(key(wanted).as_str())
    }

    fn holds_pod(&self, uid: &str, at: &Place<'_>) -> bool {
        let there = self.by_uid.get(uid);
        is_whole(at) && there.is_some_and(|there| **there == *key(at))
    }
}

fn key(place: &Place<'_>) -> String {
    format!("{}/{}/{}", place.node, place.namespace, place.account)
}

fn is_whole(place: &Place<'_>) -> bool {
    ![place.node, place.namespace, place.account].contains(&"")
}

/// Where a pod is and who it is; `None` for one that has finished, or is nowhere or nobody.
fn place(pod: &Slim) -> Option<Place<'_>> {
    let phase = pod.status.as_ref().map_or("", |status| &status.phase);
    let place = Place {
        node: &pod.spec.node_name,
        namespace: pod.metadata.namespace.as_deref()?,
        account: &pod.spec.service_account_name,
    };
    (is_whole(&place) && !matches!(phase, "Succeeded" | "Failed")).then_some(place)
}

fn uid(pod: &Slim) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

fn resource() -> ApiResource {
    ApiResource::erase::<Pod>(&())
}

#[cfg(test)]
mod tests;
