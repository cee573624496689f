//! Events on pods, as `kubectl describe pod` shows them. Called by [`super::pods`].
//!
//! The same thing said again is not another event: an event's name follows from its pod and
//! text, and one that is there counts on, as a series.

use std::sync::Arc;

use aws_lc_rs::digest;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Error};
use serde_json::json;

use super::FIELD_MANAGER;

/// Longest text in bytes (`note` of `events.k8s.io/v1`).
const MAX_NOTE: usize = 1024;

/// Longest part of the pod's name in the event's, which with the rest stays below the 253
/// bytes of a name.
const MAX_NAME: usize = 230;

/// Which controller reports, in every event of ours.
const CONTROLLER: &str = "isthmus.dev/agent";

/// A pod that is reported on.
pub(super) struct Regarding<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) uid: &'a str,
}

/// What is reported.
#[derive(Clone, Copy)]
pub(super) enum What<'a> {
    /// The pod should be in the mesh and is not, with the reason.
    NotEnrolled(&'a str),
    /// It was not, and now is.
    Enrolled,
}

/// Reports for the agent of one node.
pub(super) struct Reporter {
    client: Client,
    node: Arc<str>,
}

impl Reporter {
    pub(super) fn new(client: Client, node: &str) -> Self {
        Self {
            client,
            node: node.into(),
        }
    }

    /// Reports `what`, which this agent has reported `before` times.
    pub(super) async fn report(
        &self,
        pod: &Regarding<'_>,
        what: What<'_>,
        before: i32,
    ) -> Result<(), Error> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), pod.namespace);
        let event = self.event(pod, what);
        match api.create(&PostParams::default(), &event).await {
            Err(Error::Api(status)) if status.code == 409 => {
                let name = event.metadata.name.unwrap_or_default();
                // A series begins with the second time.
                let series = json!({"series": {
                    "count": before.max(1).saturating_add(1),
                    "lastObservedTime": MicroTime(Timestamp::now()),
                }});
                let params = PatchParams {
                    field_manager: Some(FIELD_MANAGER.into()),
                    ..PatchParams::default()
                };
                api.patch(&name, &params, &Patch::Merge(&series)).await?;
                Ok(())
            }
            created => created.map(drop),
        }
    }

    fn event(&self, pod: &Regarding<'_>, what: What<'_>) -> Event {
        let (type_, reason, note) = match what {
            What::NotEnrolled(why) => ("Warning", "NotEnrolled", why),
            What::Enrolled => ("Normal", "Enrolled", "the pod is in the mesh now"),
        };
        let note = note[..note.floor_char_boundary(MAX_NOTE)].to_owned();
        let short = &pod.name[..pod.name.floor_char_boundary(MAX_NAME)];
        Event {
            metadata: ObjectMeta {
                namespace: Some(pod.namespace.to_owned()),
                name: Some(format!("{short}.{}", tag(&[pod.uid, reason, &note]))),
                ..ObjectMeta::default()
            },
            action: Some("Enrolling".into()),
            event_time: Some(MicroTime(Timestamp::now())),
            note: Some(note),
            reason: Some(reason.into()),
            regarding: Some(ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                namespace: Some(pod.namespace.to_owned()),
                name: Some(pod.name.to_owned()),
                uid: Some(pod.uid.to_owned()),
                ..ObjectReference::default()
            }),
            reporting_controller: Some(CONTROLLER.into()),
            reporting_instance: Some(self.instance()),
            type_: Some(type_.into()),
            ..Event::default()
        }
    }

    /// The node's name; the API takes 128 bytes of it.
    fn instance(&self) -> String {
        self.node[..self.node.floor_char_boundary(128)].to_owned()
    }
}

/// Sixteen hex digits that differ for other texts.
fn tag(parts: &[&str]) -> String {
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in parts {
        hash.update(part.as_bytes());
        hash.update(&[0]);
    }
    hash.finish().as_ref()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
