//! From what arrives to what the store takes: every object but a pod goes through the
//! reader of files, for the same strictness. Called by the followers.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::intern::Interner;
use super::kinds::{Kind, NAMESPACE, POLICIES};
use super::pod::{self, PodBody};
use super::received::{Body, Received};
use super::settings;
use crate::config::document;
use crate::model::{Objects, Origin, Pod, Problem, Severity};

/// Namespace and name; no namespace for what has none.
pub(super) type Key = (Arc<str>, Arc<str>);

/// A pod, or what is wrong with it.
pub(super) type ReadPod = Result<Arc<Pod>, Vec<Problem>>;

/// What a follower tells.
pub(super) enum Update {
    Pods(Change<ReadPod>),
    /// With the kind's name.
    Others(Arc<str>, Box<Change<Read>>),
}

/// A change of the objects of one kind.
pub(super) enum Change<T> {
    /// These are all.
    Listed(Vec<(Key, T)>),
    Applied(Key, T),
    Deleted(Key),
}

/// What one object came to.
#[derive(Debug)]
pub(super) struct Read {
    /// `None` if it cannot be taken.
    pub(super) objects: Option<Objects>,
    /// What holds in its place where no version of it was ever good: the policy that it may
    /// be, or the settings that can be read.
    pub(super) otherwise: Box<Objects>,
    pub(super) problems: Vec<Problem>,
    /// `metadata.generation` of a policy: its status names the version that it is about. 0 of
    /// anything else, of which a new generation need not mean anything.
    pub(super) generation: i64,
}

/// What a body is read into.
pub(super) trait Readable: Body {
    type Read: Send + 'static;

    fn read(received: Received<Self>, kind: &Kind, interner: &mut Interner) -> Self::Read;

    fn update(kind: &Arc<str>, change: Change<Self::Read>) -> Update;
}

pub(super) fn key<B>(received: &Received<B>, interner: &mut Interner) -> Key {
    let meta = &received.meta;
    let namespace = interner.text(meta.namespace.as_deref().unwrap_or_default());
    (namespace, meta.name.as_deref().unwrap_or_default().into())
}

impl Readable for PodBody {
    type Read = Result<Arc<Pod>, Vec<Problem>>;

    fn read(received: Received<Self>, _: &Kind, interner: &mut Interner) -> Self::Read {
        pod::read(received.body, interner).map(Arc::new)
    }

    fn update(_: &Arc<str>, change: Change<Self::Read>) -> Update {
        Update::Pods(change)
    }
}

impl Readable for Value {
    type Read = Read;

    fn read(received: Received<Self>, kind: &Kind, interner: &mut Interner) -> Read {
        read(received.body, kind, interner)
    }

    fn update(kind: &Arc<str>, change: Change<Read>) -> Update {
        Update::Others(Arc::clone(kind), Box::new(change))
    }
}

fn read(mut object: Value, kind: &Kind, interner: &mut Interner) -> Read {
    let generation = generation(&object, kind);
    if let Value::Object(fields) = &mut object {
        // Items of a list leave them to the list.
        fields.insert("apiVersion".to_owned(), kind.api_version().into());
        fields.insert("kind".to_owned(), kind.kind.as_str().into());
        strip(fields, kind);
    }
    if let Some(elsewhere) = stray_config(&object, kind) {
        return Read {
            objects: Some(Objects::default()),
            otherwise: Box::default(),
            problems: vec![elsewhere],
            generation,
        };
    }
    // Whatever JSON holds, the other has a place for.
    let value = serde_yaml_ng::to_value(&object).unwrap_or_default();
    match document::read_of_api(value) {
        Ok(mut objects) => {
            shrink(&mut objects);
            share(&mut objects, interner);
            Read {
                objects: Some(objects),
                otherwise: Box::default(),
                problems: Vec::new(),
                generation,
            }
        }
        Err(rejected) => Read {
            objects: None,
            otherwise: Box::new(Objects {
                unread_policies: rejected.policies,
                ..settings::known_part(object, kind)
            }),
            problems: rejected.problems,
            generation,
        },
    }
}

fn generation(object: &Value, kind: &Kind) -> i64 {
    let name = kind.name();
    if POLICIES.iter().all(|(policy, _)| *policy != name) {
        return 0;
    }
    object["metadata"]["generation"]
        .as_i64()
        .unwrap_or_default()
}

/// Annotations of others that mean something to the model.
const ANNOTATIONS: [&str; 4] = [
    "isthmus.dev/",
    "istio.io/",
    "networking.istio.io/",
    "service.kubernetes.io/",
];

/// Takes out what nobody reads: it is most of an object, and changes without meaning.
fn strip(fields: &mut Map<String, Value>, kind: &Kind) {
    if let Some(Value::Object(meta)) = fields.get_mut("metadata") {
        for field in [
            "managedFields",
            "resourceVersion",
            "selfLink",
            "ownerReferences",
            "finalizers",
        ] {
            meta.remove(field);
        }
        if let Some(Value::Object(annotations)) = meta.get_mut("annotations") {
            annotations.retain(|key, _| ANNOTATIONS.iter().any(|prefix| key.starts_with(prefix)));
            if annotations.is_empty() {
                meta.remove("annotations");
            }
        }
    }
    match kind.kind.as_str() {
        "Namespace" if kind.group.is_empty() => {
            fields.remove("spec");
            fields.remove("status");
        }
        "Node" if kind.group.is_empty() => strip_node(fields),
        _ => {}
    }
}

/// Leaves of a Node the addresses of its pods, and whether it is ready: the rest of its status
/// changes all the time.
fn strip_node(fields: &mut Map<String, Value>) {
    if let Some(Value::Object(spec)) = fields.get_mut("spec") {
        spec.retain(|key, _| key == "podCIDR" || key == "podCIDRs");
    }
    let Some(Value::Object(status)) = fields.get_mut("status") else {
        return;
    };
    status.retain(|key, _| key == "conditions");
    let Some(Value::Array(conditions)) = status.get_mut("conditions") else {
        return;
    };
    conditions.retain(|condition| condition["type"] == "Ready");
    for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
        condition.retain(|key, _| key == "type" || key == "status");
    }
}

/// Most objects are alone in their list.
fn shrink(objects: &mut Objects) {
    objects.namespaces.shrink_to_fit();
    objects.nodes.shrink_to_fit();
    objects.services.shrink_to_fit();
    objects.endpoint_slices.shrink_to_fit();
    objects.peer_authentications.shrink_to_fit();
    objects.authorization_policies.shrink_to_fit();
    objects.unenforced.shrink_to_fit();
    objects.network_policies.shrink_to_fit();
    objects.service_cidrs.shrink_to_fit();
}

/// One copy of what many objects have.
fn share(objects: &mut Objects, interner: &mut Interner) {
    for service in &mut objects.services {
        service.object.share(|text| interner.text(text));
    }
    for slice in &mut objects.endpoint_slices {
        slice.object.share(|text| interner.text(text));
    }
}

/// Who may write into some namespace must not set the trust of the whole mesh.
fn stray_config(object: &Value, kind: &Kind) -> Option<Problem> {
    if kind.group != "isthmus.dev" || kind.kind != "MeshConfig" {
        return None;
    }
    let meta = object.meta();
    let namespace = meta.namespace.unwrap_or_default();
    (namespace != NAMESPACE).then(|| Problem {
        file: Origin::API.into(),
        object: Some(format!(
            "MeshConfig {namespace}/{}",
            meta.name.unwrap_or_default()
        )),
        field: "metadata.namespace".to_owned(),
        message: format!(
            "the settings of the mesh are in namespace {NAMESPACE}; this one has no effect"
        ),
        cure: format!("move it to {NAMESPACE}, or remove it"),
        severity: Severity::Error,
    })
}
