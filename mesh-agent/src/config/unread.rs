//! The policies that a file may hold where the file cannot be taken: what must be
//! feared until it can. Called by the reader of documents and the cache of files.

use std::path::Path;

use serde::Deserialize;
use serde_yaml_ng::{Mapping, Value};

use crate::model::{
    LabelSelector, Origin, Sourced, UnreadKind, UnreadPolicy, is_of_gateways, trial,
};

const KINDS: [(&str, UnreadKind); 2] = [
    ("AuthorizationPolicy", UnreadKind::AuthorizationPolicy),
    ("PeerAuthentication", UnreadKind::PeerAuthentication),
];

/// Policies of any kind, for any workload: of a file that shows nothing of itself.
pub(super) fn of_anything(file: &Path) -> Vec<Sourced<UnreadPolicy>> {
    let kinds = KINDS.iter();
    kinds.map(|(_, kind)| any(file, *kind)).collect()
}

/// Policies for any workload, of the kinds that are named in a text that does not
/// parse. A name written with escapes is not seen; nobody writes one by mistake.
pub(super) fn of_text(file: &Path, text: &str) -> Vec<Sourced<UnreadPolicy>> {
    let kinds = KINDS.iter().filter(|(name, _)| text.contains(name));
    kinds.map(|(_, kind)| any(file, *kind)).collect()
}

fn any(file: &Path, kind: UnreadKind) -> Sourced<UnreadPolicy> {
    Sourced {
        object: UnreadPolicy {
            kind,
            namespace: None,
            name: None,
            selector: None,
        },
        origin: Origin::new(file, 1),
    }
}

/// The policy that an object may be. One that only reports, or is for gateways alone, refuses
/// nothing here.
pub(super) fn of_object(object: &Mapping, kind: &str) -> Option<UnreadPolicy> {
    let (_, kind) = *KINDS.iter().find(|(name, _)| *name == kind)?;
    let meta = object.get("metadata").and_then(Value::as_mapping);
    let text = |field: &str| Some(meta?.get(field)?.as_str()?.to_owned());
    let annotations = meta.and_then(|meta| meta.get("annotations"));
    let dry_run = annotations.and_then(|all| all.get(trial::DRY_RUN));
    let dry_run = dry_run.and_then(Value::as_str).and_then(trial::truth);
    let spec = object.get("spec").and_then(Value::as_mapping);
    let field = |name: &str| spec.and_then(|spec| spec.get(name));
    let reports = kind == UnreadKind::AuthorizationPolicy
        && (dry_run == Some(true) || field("action").and_then(Value::as_str) == Some("AUDIT"));
    if reports || spec.is_some_and(is_for_gateways) {
        return None;
    }
    let absent = meta.is_some_and(|meta| !meta.contains_key("namespace"));
    let selector = field("selector").cloned();
    Some(UnreadPolicy {
        kind,
        namespace: text("namespace").or_else(|| absent.then(|| "default".to_owned())),
        name: text("name"),
        selector: selector.and_then(|selector| LabelSelector::deserialize(selector).ok()),
    })
}

/// Whether all that a policy targets is served by gateways, as far as that can be read.
fn is_for_gateways(spec: &Mapping) -> bool {
    let one = spec.get("targetRef").into_iter();
    let all = spec.get("targetRefs").into_iter();
    let all = all.flat_map(|refs| match refs {
        Value::Sequence(refs) => refs.as_slice(),
        other => std::slice::from_ref(other),
    });
    let mut targets = one.chain(all).peekable();
    let is_of_gateways = |target: &Value| {
        let text = |field: &str| target.get(field).and_then(Value::as_str);
        is_of_gateways(
            text("group").unwrap_or_default(),
            text("kind").unwrap_or_default(),
        )
    };
    !spec.contains_key("selector") && targets.peek().is_some() && targets.all(is_of_gateways)
}
