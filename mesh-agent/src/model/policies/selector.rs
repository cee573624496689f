//! Validates workload selectors. Istio refuses wildcards and empty keys in its
//! `validateWorkloadSelector` (`pkg/config/validation`) and long values in its CRDs. A label
//! that Kubernetes cannot have on a pod is refused too: such a selector selects nothing, so a
//! DENY policy or a STRICT PeerAuthentication with it would silently protect nothing.

use super::super::schema::LabelSelector;
use super::Report;

/// Labels of one selector at most (`maxProperties` in Istio's CRDs).
const MAX_LABELS: usize = 4096;
/// Bytes of a label's name and of its value at most
/// (<https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/>).
const MAX_NAME: usize = 63;
/// Bytes of the DNS name before the slash of a key at most.
const MAX_PREFIX: usize = 253;

/// Reports every label of `spec.selector` that cannot be meant.
pub(super) fn check(selector: &LabelSelector, report: &mut Report<'_>) {
    let labels = &selector.match_labels;
    if labels.len() > MAX_LABELS {
        let message = format!("it has {} labels; {MAX_LABELS} are allowed", labels.len());
        report.fault(FIELD, message, "remove some of them");
    }
    for (key, value) in labels {
        if let Some(message) = fault(key, value) {
            let field = match key.is_empty() {
                true => FIELD.to_owned(),
                false => format!("{FIELD}[{key}]"),
            };
            report.fault(field, message, "write a label as the pods have it");
        }
    }
}

/// Whether a selector can select what it says.
pub(super) fn is_valid(selector: &LabelSelector) -> bool {
    let labels = &selector.match_labels;
    labels.len() <= MAX_LABELS
        && labels
            .iter()
            .all(|(key, value)| fault(key, value).is_none())
}

const FIELD: &str = "spec.selector.matchLabels";

fn fault(key: &str, value: &str) -> Option<String> {
    if key.is_empty() {
        return Some(format!("the key of the value {value:?} is empty"));
    }
    if key.contains('*') || value.contains('*') {
        return Some(format!(
            "\"{key}={value}\" has a wildcard, which a selector does not support: it would select no workload"
        ));
    }
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if !is_name(name) || prefix.is_some_and(|prefix| !is_dns_name(prefix)) {
        return Some(format!("{key:?} is not a key that a label can have"));
    }
    if !value.is_empty() && !is_name(value) {
        return Some(format!(
            "{value:?} is not a value that a label can have: at most {MAX_NAME} letters, digits, '-', '_' or '.', the first and the last a letter or digit"
        ));
    }
    None
}

fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    text.len() <= MAX_NAME
        && text.bytes().all(inner)
        && ends
            .iter()
            .all(|b| b.is_some_and(u8::is_ascii_alphanumeric))
}

fn is_dns_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= MAX_PREFIX && text.split('.').all(is_label)
}
