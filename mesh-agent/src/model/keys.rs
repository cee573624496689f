//! The labels and annotations that the mesh reads, and a guard against typing
//! errors in them: a misspelt opt-in must not pass for none.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::object::Origin;
use super::problem::Problem;

/// Label on a namespace or pod: `enabled` or `disabled`.
pub(super) const MESH: &str = "isthmus.dev/mesh";
/// Istio's label for the same: `ambient` or `none`.
const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
/// Annotation on a pod: the path of its network namespace.
pub(super) const NETNS: &str = "isthmus.dev/netns";
/// Annotation on a pod: its cgroup v2 directory.
pub(super) const CGROUP: &str = "isthmus.dev/cgroup";

/// Annotation on a pod of another mesh: the trust domain of its identity.
pub(super) const TRUST_DOMAIN: &str = "isthmus.dev/trust-domain";
/// Annotation on a pod: the DNS names in its certificate, where that has no SPIFFE ID.
pub(super) const TLS_NAMES: &str = "isthmus.dev/tls-names";
/// Annotation on a pod that the agent itself writes: why the pod is not enrolled.
pub(crate) const STATUS: &str = "isthmus.dev/status";

const PREFIX: &str = "isthmus.dev/";

/// The labels and annotations of one object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys<'a> {
    pub(super) labels: Option<&'a BTreeMap<String, String>>,
    pub(super) annotations: Option<&'a BTreeMap<String, String>>,
}

impl<'a> From<&'a ObjectMeta> for Keys<'a> {
    fn from(meta: &'a ObjectMeta) -> Self {
        Self {
            labels: meta.labels.as_ref(),
            annotations: meta.annotations.as_ref(),
        }
    }
}

/// Whether a key is one of Isthmus, known or not.
pub(super) fn is_ours(key: &str) -> bool {
    key.starts_with(PREFIX)
}

/// Which of our keys a kind may have.
pub(super) struct Allowed {
    labels: &'static [&'static str],
    annotations: &'static [&'static str],
}

pub(super) const POD: Allowed = Allowed {
    labels: &[MESH],
    annotations: &[NETNS, CGROUP, TRUST_DOMAIN, TLS_NAMES, STATUS],
};
pub(super) const NAMESPACE: Allowed = Allowed {
    labels: &[MESH],
    annotations: &[],
};
pub(super) const NONE: Allowed = Allowed {
    labels: &[],
    annotations: &[],
};

/// Whether an object asks to be in the mesh (`true`), out of it (`false`), or
/// says nothing. Our own label decides over Istio's.
pub(super) fn membership<'a>(
    keys: impl Into<Keys<'a>>,
    origin: &Origin,
    object: &str,
    problems: &mut Vec<Problem>,
) -> Option<bool> {
    let labels = keys.into().labels?;
    match labels.get(MESH).map(String::as_str) {
        Some("enabled" | "disabled") | None => {}
        Some(other) => problems.push(Problem::new(
            origin,
            object,
            format!("metadata.labels[{MESH}]"),
            format!("{other:?} is neither \"enabled\" nor \"disabled\""),
            "write one of the two; until then the label counts as absent",
        )),
    }
    asks_for_mesh(Some(labels))
}

/// [`membership`], without a word about labels that say neither.
pub(crate) fn asks_for_mesh(labels: Option<&BTreeMap<String, String>>) -> Option<bool> {
    let labels = labels?;
    match labels.get(MESH).map(String::as_str) {
        Some("enabled") => return Some(true),
        Some("disabled") => return Some(false),
        _ => {}
    }
    match labels.get(DATAPLANE_MODE).map(String::as_str) {
        Some("ambient") => Some(true),
        Some("none") => Some(false),
        _ => None,
    }
}

/// Reports keys under `isthmus.dev/` that the object cannot have.
pub(super) fn check<'a>(
    keys: impl Into<Keys<'a>>,
    allowed: &Allowed,
    origin: &Origin,
    object: &str,
    problems: &mut Vec<Problem>,
) {
    let mut report = |place: &str, keys: Option<&BTreeMap<String, String>>, known: &[&str]| {
        for key in keys.into_iter().flat_map(BTreeMap::keys) {
            if !is_ours(key) || known.contains(&key.as_str()) {
                continue;
            }
            problems.push(Problem::new(
                origin,
                object,
                format!("metadata.{place}[{key}]"),
                "Isthmus knows no such key here, so it has no effect",
                cure(key, allowed),
            ));
        }
    };
    let Keys {
        labels,
        annotations,
    } = keys.into();
    report("labels", labels, allowed.labels);
    report("annotations", annotations, allowed.annotations);
}

/// [`check`] of a pod of the Kubernetes API, where whoever may write pods must not say
/// who they are or choose among the node's namespaces.
pub(super) fn check_in_cluster(
    keys: Keys<'_>,
    origin: &Origin,
    object: &str,
    problems: &mut Vec<Problem>,
) {
    check(keys, &POD, origin, object, problems);
    let annotations = keys.annotations.into_iter().flat_map(BTreeMap::keys);
    for key in
        annotations.filter(|key| [NETNS, CGROUP, TRUST_DOMAIN, TLS_NAMES].contains(&key.as_str()))
    {
        let (field, message, cure) = (
            format!("metadata.annotations[{key}]"),
            "it is for folders of configuration: on a pod of a cluster it has no effect",
            "remove it",
        );
        problems.push(Problem::new(origin, object, field, message, cure).into_warning());
    }
}

fn cure(key: &str, allowed: &Allowed) -> String {
    let labels = allowed.labels.iter().map(|known| ("label", *known));
    let annotations = allowed
        .annotations
        .iter()
        .map(|known| ("annotation", *known));
    labels
        .chain(annotations)
        .min_by_key(|(_, known)| distance(key, known))
        .map_or_else(
            || "remove it".to_owned(),
            |(place, known)| format!("remove it, or write it as the {place} {known}"),
        )
}

/// How many characters must change to turn one text into the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[row.len() - 1]
}
