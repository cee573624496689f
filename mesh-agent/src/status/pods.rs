//! Writes why pods of this node are not enrolled: an annotation, which is there for as long
//! as it is true, and an event. Of a pod that is enrolled and whose tunnels a NetworkPolicy shuts
//! out, the annotation alone. Started by [`super::Writer`].
//!
//! The metadata of the node's own pods is watched, so that an annotation is corrected
//! whoever left it: an agent that died, or a person. It is written by way of the pod's
//! status, which takes less permission than writing to a pod.

use std::collections::HashMap;
use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PartialObjectMeta, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Error};
use serde_json::json;
use tokio::time::Instant;

use super::events::{Regarding, Reporter, What};
use super::{FIELD_MANAGER, Latest, PodStatus, Snapshot};
use crate::model::STATUS_ANNOTATION;

/// How long changes are gathered.
const GATHER: Duration = Duration::from_secs(1);

/// How often what was written is compared without a change, and the least time between two
/// events about one pod.
const COMPARE: Duration = Duration::from_secs(10);

/// How often an event that is still true is reported again: API servers forget events after
/// an hour.
const REMIND: Duration = Duration::from_secs(30 * 60);

/// The longest wait after an error.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// How the annotation of a pod begins that is not enrolled...
const NOT_ENROLLED: &str = "not enrolled: ";
/// ...and of one that is, and cannot be reached.
const ENROLLED: &str = "enrolled, but: ";

/// Bytes of a reason in the annotation.
const MAX_REASON: usize = 4096;

/// Runs until the writer is dropped.
pub(super) async fn write(client: Client, node: String, mut latest: Latest) {
    if latest.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let api = Api::<PartialObjectMeta<Pod>>::all(client.clone());
    let watched = watcher(api, config).default_backoff();
    let mut watched = pin!(watched);
    let mut pods = Pods::new(client, &node);
    let mut compare = Instant::now();
    let mut backoff = GATHER;
    loop {
        tokio::select! {
            event = watched.try_next() => {
                match event {
                    Ok(Some(event)) => pods.take(event),
                    Ok(None) => return,
                    Err(error) => {
                        tracing::warn!(%error, "the metadata of this node's pods cannot be watched");
                        continue;
                    }
                }
                if backoff == GATHER {
                    compare = compare.min(Instant::now() + GATHER);
                }
            }
            () = tokio::time::sleep_until(compare), if pods.listed => {
                let Some(snapshot) = latest.borrow_and_update().clone() else { continue };
                compare = Instant::now() + match pods.write(&snapshot).await {
                    Ok(()) => {
                        backoff = GATHER;
                        COMPARE
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the status of this node's pods cannot be written");
                        backoff = (backoff * 2).min(MAX_BACKOFF);
                        backoff
                    }
                };
            }
            changed = latest.changed() => {
                if changed.is_err() {
                    return;
                }
                if backoff == GATHER {
                    compare = compare.min(Instant::now() + GATHER);
                }
            }
        }
    }
}

/// This node's pods, as the API shows them.
struct Pods {
    client: Client,
    reporter: Reporter,
    /// By UID.
    known: HashMap<String, Known>,
    /// A new list, while it comes.
    fresh: HashMap<String, Known>,
    /// Whether there was a whole list.
    listed: bool,
    /// The events of this agent about pods that are not enrolled, by the pods' UID.
    said: HashMap<String, Said>,
    /// Pods about which the API server takes nothing, as in a namespace that is being deleted, by
    /// UID: when each is tried again, and how long that was put off.
    refused: HashMap<String, (Instant, Duration)>,
}

struct Known {
    namespace: String,
    name: String,
    annotation: Option<String>,
    /// Whether it is being deleted.
    is_going: bool,
}

struct Said {
    reason: String,
    when: Instant,
    times: i32,
}

impl Pods {
    fn new(client: Client, node: &str) -> Self {
        Self {
            reporter: Reporter::new(client.clone(), node),
            client,
            known: HashMap::new(),
            fresh: HashMap::new(),
            listed: false,
            said: HashMap::new(),
            refused: HashMap::new(),
        }
    }

    fn take(&mut self, event: Event<PartialObjectMeta<Pod>>) {
        match event {
            Event::Init => self.fresh.clear(),
            Event::InitApply(pod) => self.fresh.extend(known(pod)),
            Event::InitDone => {
                self.known = std::mem::take(&mut self.fresh);
                self.listed = true;
            }
            Event::Apply(pod) => self.known.extend(known(pod)),
            Event::Delete(pod) => {
                self.known.remove(&pod.metadata.uid.unwrap_or_default());
            }
        }
    }

    /// Brings every pod in line with the snapshot. What is refused about one pod keeps no other
    /// from being written.
    async fn write(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        let Self {
            client,
            reporter,
            known,
            said,
            refused,
            ..
        } = self;
        let told: HashMap<_, _> = snapshot
            .pods
            .iter()
            .map(|pod| (pod.uid.as_str(), pod))
            .collect();
        said.retain(|uid, _| known.contains_key(uid));
        refused.retain(|uid, _| known.contains_key(uid));
        for (uid, pod) in known {
            let put_off = refused.get(uid).copied();
            if put_off.is_some_and(|(until, _)| Instant::now() < until) {
                continue;
            }
            let status = told.get(uid.as_str()).copied();
            match bring_in_line(client, reporter, said, uid, pod, status).await {
                Ok(()) => {
                    refused.remove(uid);
                }
                Err(Error::Api(answer)) if is_refusal(answer.code) => {
                    let wait = put_off.map_or(COMPARE, |(_, wait)| (wait * 2).min(MAX_BACKOFF));
                    refused.insert(uid.clone(), (Instant::now() + wait, wait));
                    tracing::warn!(namespace = pod.namespace, name = pod.name, %answer,
                        "the API server refuses the pod's status or an event about it");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether an answer is about what was asked, and not about who asked or when.
fn is_refusal(code: u16) -> bool {
    (400..500).contains(&code) && !matches!(code, 401 | 408 | 429)
}

/// Writes of one pod what is not there yet.
async fn bring_in_line(
    client: &Client,
    reporter: &Reporter,
    said: &mut HashMap<String, Said>,
    uid: &str,
    pod: &mut Known,
    status: Option<&PodStatus>,
) -> Result<(), Error> {
    let reason = status.and_then(|status| status.not_enrolled.as_deref());
    // Its sandbox goes before its object. What was said of it earlier is still corrected.
    if pod.is_going && reason.is_some() && pod.annotation.is_none() {
        return Ok(());
    }
    let warning = status.and_then(|status| status.warning.as_deref());
    let wanted = match (reason, warning) {
        (Some(reason), _) => Some(annotation(NOT_ENROLLED, reason)),
        (None, Some(warning)) => Some(annotation(ENROLLED, warning)),
        (None, None) => None,
    };
    let mut recovered = false;
    if pod.annotation != wanted && annotate(client, pod, uid, wanted.as_deref()).await? {
        let before = pod.annotation.as_deref();
        recovered = reason.is_none() && before.is_some_and(|it| it.starts_with(NOT_ENROLLED));
        pod.annotation = wanted;
    }
    let regarding = Regarding {
        namespace: &pod.namespace,
        name: &pod.name,
        uid,
    };
    report(reporter, said, &regarding, status, recovered).await
}

/// Reports what is new about one pod, or has not been said for long. `recovered` tells that
/// its annotation was just removed, whichever agent had written it.
async fn report(
    reporter: &Reporter,
    said: &mut HashMap<String, Said>,
    pod: &Regarding<'_>,
    status: Option<&PodStatus>,
    recovered: bool,
) -> Result<(), Error> {
    let last = said.get(pod.uid);
    let Some(reason) = status.and_then(|status| status.not_enrolled.as_deref()) else {
        let was_out = last.is_some() || recovered;
        if was_out && status.is_some() {
            reporter.report(pod, What::Enrolled, 0).await?;
        }
        said.remove(pod.uid);
        return Ok(());
    };
    let times = match last {
        Some(last) if last.when.elapsed() < COMPARE => return Ok(()),
        Some(last) if last.reason != reason => 0,
        Some(last) if last.when.elapsed() < REMIND => return Ok(()),
        Some(last) => last.times,
        None => 0,
    };
    let what = What::NotEnrolled(reason);
    reporter.report(pod, what, times).await?;
    let now = Said {
        reason: reason.to_owned(),
        when: Instant::now(),
        times: times.saturating_add(1),
    };
    said.insert(pod.uid.to_owned(), now);
    Ok(())
}

/// Writes or removes the annotation; false when the pod is gone.
async fn annotate(
    client: &Client,
    pod: &Known,
    uid: &str,
    value: Option<&str>,
) -> Result<bool, Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    // With the UID, so that a new pod of the same name does not get it.
    let patch = json!({"metadata": {"uid": uid, "annotations": {STATUS_ANNOTATION: value}}});
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..PatchParams::default()
    };
    match api
        .patch_status(&pod.name, &params, &Patch::Merge(&patch))
        .await
    {
        Ok(_) => Ok(true),
        Err(Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
        Err(error) => Err(error),
    }
}

fn annotation(state: &str, reason: &str) -> String {
    format!(
        "{state}{}",
        &reason[..reason.floor_char_boundary(MAX_REASON)]
    )
}

fn known(pod: PartialObjectMeta<Pod>) -> Option<(String, Known)> {
    let mut meta = pod.metadata;
    let annotation = meta
        .annotations
        .as_mut()
        .and_then(|all| all.remove(STATUS_ANNOTATION));
    let known = Known {
        namespace: meta.namespace?,
        name: meta.name?,
        annotation,
        is_going: meta.deletion_timestamp.is_some(),
    };
    Some((meta.uid?, known))
}

#[cfg(test)]
mod tests;
