//! The condition on a policy: what it says, and whether what is there says it already. Pure;
//! called by [`super::policies`].
//!
//! Conditions have the shape of Istio's (`IstioCondition`) and of Kubernetes' own. Those of
//! other controllers stand in the same list and are kept as they are.

use serde_json::{Value, json};

use super::PolicyStatus;
use crate::model::{Problem, Severity};

/// Our condition's type; the prefix tells it from those of other controllers.
const TYPE: &str = "isthmus.dev/Accepted";

/// Longest message in bytes. Kubernetes' own conditions end at 32768.
const MAX_MESSAGE: usize = 8192;

/// The list with our condition in it, or `None` where `conditions` says it already. `now`
/// is in RFC 3339.
pub(super) fn merged(conditions: &[Value], policy: &PolicyStatus, now: &str) -> Option<Vec<Value>> {
    let ours = |condition: &&Value| condition["type"] == TYPE;
    let old = conditions.iter().find(ours);
    let mut new = condition(policy);
    if old.is_some_and(|old| says(old, &new)) {
        return None;
    }
    // The moment of the last change of `status`, whatever else changed since.
    let kept = old.filter(|old| old["status"] == new["status"]);
    let since = kept.and_then(|old| old["lastTransitionTime"].as_str());
    new["lastTransitionTime"] = json!(since.unwrap_or(now));
    let mut list: Vec<_> = conditions.iter().filter(|c| !ours(c)).cloned().collect();
    list.push(new);
    Some(list)
}

fn condition(policy: &PolicyStatus) -> Value {
    let errors = policy
        .problems
        .iter()
        .any(|p| p.severity == Severity::Error);
    let (status, reason) = match (errors, policy.problems.is_empty()) {
        (true, _) => ("False", "Invalid"),
        (false, false) => ("True", "AcceptedWithWarnings"),
        (false, true) => ("True", "Accepted"),
    };
    let mut message = match policy.problems.as_slice() {
        [] => "it is in force as it is written".to_owned(),
        problems => {
            let lines: Vec<_> = problems.iter().map(Problem::in_place).collect();
            lines.join("\n")
        }
    };
    message.truncate(message.floor_char_boundary(MAX_MESSAGE));
    json!({
        "type": TYPE,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": policy.generation,
    })
}

/// Whether a condition that was read says what `new` does. Schemas of older Istio releases
/// have no `observedGeneration` in a condition: the API server drops it, and written
/// again it would be dropped again.
fn says(old: &Value, new: &Value) -> bool {
    let same = |field: &str| old[field] == new[field];
    let generation = &old["observedGeneration"];
    same("status")
        && same("reason")
        && same("message")
        && (generation.is_null() || *generation == new["observedGeneration"])
}

#[cfg(test)]
mod tests;
