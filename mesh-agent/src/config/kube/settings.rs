//! The part of a MeshConfig that is known, where the rest is not. Used while no version of it
//! was ever good: without its trust domain and root namespace, policies of the whole mesh
//! would hold for one namespace. Called by [`super::read`].

use serde_json::{Map, Value};

use super::kinds::Kind;
use crate::config::document;
use crate::model::Objects;

/// How many unknown fields are passed over.
const MAX_UNKNOWN: usize = 64;

/// The object without the fields that are not known; nothing of another kind, or if what
/// remains cannot be read.
pub(super) fn known_part(mut object: Value, kind: &Kind) -> Objects {
    if kind.group != "isthmus.dev" || kind.kind != "MeshConfig" {
        return Objects::default();
    }
    for _ in 0..MAX_UNKNOWN {
        let value = serde_yaml_ng::to_value(&object).unwrap_or_default();
        let rejected = match document::read_of_api(value) {
            Ok(objects) => return objects,
            Err(rejected) => rejected,
        };
        let unknown = rejected.problems.first();
        let unknown = unknown.filter(|it| it.message.starts_with("unknown field"));
        if !unknown.is_some_and(|it| remove(&mut object, &it.field)) {
            break;
        }
    }
    Objects::default()
}

/// Removes a field by its path, as errors of the reader have it. False if it is not there.
fn remove(object: &mut Value, path: &str) -> bool {
    let path = path.replace('[', ".").replace(']', "");
    let (parents, field) = path.rsplit_once('.').unwrap_or(("", &path));
    let steps = parents.split('.').filter(|it| !it.is_empty());
    let pointer: String = steps.map(|it| format!("/{it}")).collect();
    let parent = object.pointer_mut(&pointer);
    parent
        .and_then(Value::as_object_mut)
        .is_some_and(|fields: &mut Map<String, Value>| fields.remove(field).is_some())
}
