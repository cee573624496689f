//! From AuthorizationPolicies and PeerAuthentications to [`Policies`]: every value is
//! checked here, so that the verdict has none left to doubt. Called by
//! [`build`](super::build()).
//!
//! What cannot be used is not passed over. Its last good version stays in force, and
//! without one the workloads that it may select are refused (an AuthorizationPolicy)
//! or take mutual TLS only (a PeerAuthentication).

mod authorization;
mod conditions;
mod paths;
mod peers;
mod rules;
mod selector;
pub(crate) mod target_kind;
mod targets;
pub(crate) mod trial;
mod trust_domains;
mod unmatchable;
mod values;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::object::{Objects, Origin, Sourced, UnreadKind, UnreadPolicy, key, name};
use super::problem::{Problem, Severity};
use super::schema::LabelSelector;
use super::settings::MeshSettings;
use super::workload::Workload;
use super::world::World;
use crate::policy::{Action, Labels, Policies, Policy, PolicyRef, Scope};

/// What the conversion of one kind needs of the rest of the world.
struct Scene<'a> {
    sources: &'a [&'a Objects],
    mesh: &'a MeshSettings,
    workloads: &'a [Arc<Workload>],
    previous: Option<&'a Policies>,
}

/// The policies of a generation with these `workloads`.
pub(super) fn policies(
    sources: &[&Objects],
    mesh: &MeshSettings,
    workloads: &[Arc<Workload>],
    previous: Option<&World>,
    problems: &mut Vec<Problem>,
) -> Policies {
    let scene = Scene {
        sources,
        mesh,
        workloads,
        previous: previous.map(World::policies),
    };
    let (mut authorization, known) = authorization::policies(&scene, problems);
    let (mut peers, known_peers) = peers::rules(&scene, problems);
    for unread in sources.iter().flat_map(|objects| &objects.unread_policies) {
        let (name, scope) = (unread_name(unread), unread_scope(unread, mesh));
        match unread.object.kind {
            UnreadKind::AuthorizationPolicy => authorization.push((refusal(name), scope)),
            UnreadKind::PeerAuthentication => peers.unusable.push((name, scope)),
        }
    }
    authorization.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    peers.unusable.sort();
    let known = crate::policy::Known {
        authorization: known,
        peers: known_peers,
    };
    Policies::new(workloads.iter(), &authorization, peers, known)
}

/// Stands for a policy that cannot be used.
fn refusal(name: PolicyRef) -> Arc<Policy> {
    Arc::new(Policy {
        name,
        action: Action::Refuse,
        dry_run: false,
        rules: [].into(),
    })
}

fn unread_name(unread: &Sourced<UnreadPolicy>) -> PolicyRef {
    let Sourced { object, origin } = unread;
    match (&object.namespace, &object.name) {
        (Some(namespace), Some(name)) => PolicyRef {
            namespace: namespace.as_str().into(),
            name: name.as_str().into(),
        },
        _ => PolicyRef {
            namespace: "".into(),
            name: format!("in {}", origin.file.display()).into(),
        },
    }
}

fn unread_scope(unread: &Sourced<UnreadPolicy>, mesh: &MeshSettings) -> Scope {
    let UnreadPolicy {
        namespace,
        selector,
        ..
    } = &unread.object;
    feared_scope(namespace.as_deref(), selector.as_ref(), mesh)
}

/// The workloads that a policy may be meant for that is not in force as it is written: those
/// of its selector, or if that is at fault all.
fn feared_scope(
    namespace: Option<&str>,
    selector: Option<&LabelSelector>,
    mesh: &MeshSettings,
) -> Scope {
    let selector = selector.filter(|selector| selector::is_valid(selector));
    scope(namespace, selector, mesh)
}

/// A policy of the root namespace holds for all namespaces.
fn scope(namespace: Option<&str>, selector: Option<&LabelSelector>, mesh: &MeshSettings) -> Scope {
    let namespace = namespace.filter(|namespace| *namespace != mesh.root_namespace);
    Scope::Labels {
        namespace: namespace.map(Box::from),
        labels: selector.map(labels).unwrap_or_default(),
    }
}

fn labels(selector: &LabelSelector) -> Labels {
    let labels = selector.match_labels.iter();
    let labels = labels.map(|(key, value)| (key.as_str().into(), value.as_str().into()));
    Labels(labels.collect())
}

/// Objects of one kind by key, each with all its descriptions.
fn by_key<'a, T>(
    objects: impl Iterator<Item = &'a Sourced<T>>,
    meta: impl Fn(&T) -> &ObjectMeta,
) -> BTreeMap<String, Vec<&'a Sourced<T>>> {
    let mut by_key: BTreeMap<String, Vec<&Sourced<T>>> = BTreeMap::new();
    for object in objects {
        let key = key(meta(&object.object));
        by_key.entry(key).or_default().push(object);
    }
    by_key
        .values_mut()
        .for_each(|all| all.sort_by(|a, b| a.origin.cmp(&b.origin)));
    by_key
}

/// Collects what is wrong with one policy.
struct Report<'a> {
    origin: &'a Origin,
    object: String,
    problems: &'a mut Vec<Problem>,
    /// Whether the policy cannot be used because of it.
    unusable: bool,
}

impl<'a> Report<'a> {
    /// Begins the report of the policy of this kind and key, which is the first that was
    /// `described`; a second, or the lack of a name, makes it unusable.
    fn begin<T>(
        kind: &str,
        key: &str,
        described: &[&'a Sourced<T>],
        meta: impl Fn(&T) -> &ObjectMeta,
        problems: &'a mut Vec<Problem>,
    ) -> Self {
        let source = described[0];
        let mut report = Self {
            origin: &source.origin,
            object: format!("{kind} {key}"),
            problems,
            unusable: false,
        };
        if name(meta(&source.object)).is_empty() {
            report.fault("metadata.name", "it has no name", "name it");
        }
        if let [_, second, ..] = described {
            let message = format!("it is described again in {}", second.origin);
            report.fault("metadata.name", message, "keep one of them");
        }
        report
    }

    /// What makes the policy unusable as it is written.
    fn fault(&mut self, field: impl Into<String>, message: impl Into<String>, cure: &str) {
        self.unusable = true;
        let cure = format!("{cure}; {}", self.until());
        self.push(field, message, cure, Severity::Error);
    }

    /// What is in force as it is written, and almost surely not meant.
    fn mistake(&mut self, field: impl Into<String>, message: impl Into<String>, cure: &str) {
        self.push(field, message, cure.to_owned(), Severity::Error);
    }

    /// What a person should know of a policy that is in force.
    fn warning(&mut self, field: impl Into<String>, message: impl Into<String>, cure: &str) {
        self.push(field, message, cure.to_owned(), Severity::Warning);
    }

    fn until(&self) -> &'static str {
        if self.object.starts_with("Peer") {
            "until then its last good version is in force, or without one the workloads that it may select are STRICT"
        } else {
            "until then its last good version is in force, or without one the workloads that it may select refuse everything"
        }
    }

    fn push(
        &mut self,
        field: impl Into<String>,
        message: impl Into<String>,
        cure: String,
        severity: Severity,
    ) {
        let object = self.object.as_str();
        let problem = Problem::new(self.origin, object, field, message, cure);
        self.problems.push(Problem {
            severity,
            ..problem
        });
    }
}
