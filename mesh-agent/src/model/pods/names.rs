//! The DNS names with which a pod proves itself, from its annotation.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::convert::Reporter;

/// The field of the annotation.
const FIELD: &str = "metadata.annotations[isthmus.dev/tls-names]";

/// Reads names that are separated by commas or white space. One that is none is
/// reported and left out; the others count.
pub(super) fn tls_names(text: Option<&str>, report: &mut Reporter<'_>) -> Arc<[Arc<str>]> {
    let mut names = BTreeSet::new();
    let Some(text) = text else {
        return Arc::default();
    };
    let separator = |c: char| c == ',' || c.is_whitespace();
    for name in text.split(separator).filter(|name| !name.is_empty()) {
        match why_no_name(name) {
            None => {
                names.insert(Arc::from(name));
            }
            Some(message) => report.problem(
                FIELD,
                format!("{name:?} is not taken: {message}"),
                "write full DNS names, such as web.example.com",
            ),
        }
    }
    if names.is_empty() && text.trim().is_empty() {
        report.problem(FIELD, "it is empty", "name something, or remove it");
    }
    names.into_iter().collect()
}

/// What keeps a text from being the full DNS name of one host (RFC 1123 §2.1, in
/// the lengths of RFC 1035 §2.3.4).
fn why_no_name(name: &str) -> Option<&'static str> {
    if name.contains('*') {
        return Some(
            "a wildcard says who signs for a name, in certificates; here is who the workload is",
        );
    }
    if name.len() > 253 {
        return Some("it is longer than 253 characters");
    }
    if name.parse::<std::net::IpAddr>().is_ok() {
        return Some("it is an address");
    }
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let good = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(letter)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if !name.split('.').all(good) {
        return Some("a name has labels of 1 to 63 lower-case letters, digits and '-'");
    }
    None
}
