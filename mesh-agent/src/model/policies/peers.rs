//! PeerAuthentications. <https://istio.io/latest/docs/reference/config/security/peer_authentication/>

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::jiff;

use super::super::object::{Sourced, name, namespace};
use super::super::problem::Problem;
use super::super::schema::{LabelSelector, MutualTls, MutualTlsMode, PeerAuthentication};
use super::super::settings::MtlsMode;
use super::trial::DRY_RUN;
use super::{Report, Scene, by_key, feared_scope, labels, selector, values};
use crate::policy::{PeerRule, PeerRules, PolicyRef};

/// A rule and what orders it among its equals.
struct Aged<'a> {
    rule: Arc<PeerRule>,
    source: &'a Sourced<PeerAuthentication>,
}

/// What is in force, and what of it is to be kept as a last good version.
pub(super) fn rules(
    scene: &Scene<'_>,
    problems: &mut Vec<Problem>,
) -> (PeerRules, BTreeMap<Box<str>, Arc<PeerRule>>) {
    let objects = scene.sources.iter();
    let objects = objects.flat_map(|objects| &objects.peer_authentications);
    let mut rules = PeerRules::default();
    let mut known = BTreeMap::new();
    let mut aged = Vec::new();
    for (key, described) in by_key(objects, |it| &it.metadata) {
        let source = described[0];
        let mut report = Report::begin(
            "PeerAuthentication",
            &key,
            &described,
            |it| &it.metadata,
            problems,
        );
        let rule = compile(source, &mut report);
        let rule = if report.unusable {
            let last_good = scene.previous.and_then(|it| it.known.peers.get(&*key));
            let Some(last_good) = last_good else {
                for source in described {
                    let PeerAuthentication { metadata, spec, .. } = &source.object;
                    let feared = feared_scope(
                        Some(namespace(metadata)),
                        spec.selector.as_ref(),
                        scene.mesh,
                    );
                    rules.unusable.push((rule.name.clone(), feared));
                }
                continue;
            };
            Arc::clone(last_good)
        } else {
            Arc::new(rule)
        };
        known.insert(key.into(), Arc::clone(&rule));
        aged.push(Aged { rule, source });
    }
    aged.sort_by(|a, b| age_order(a).cmp(&age_order(b)));
    enforce(aged, scene, &mut rules, problems);
    (rules, known)
}

/// Sorts the rules, the oldest first, into their levels. Says which have no effect.
fn enforce(
    aged: Vec<Aged<'_>>,
    scene: &Scene<'_>,
    rules: &mut PeerRules,
    problems: &mut Vec<Problem>,
) {
    let mut whole: BTreeMap<Box<str>, &Sourced<PeerAuthentication>> = BTreeMap::new();
    for Aged { rule, source } in aged {
        let object = format!("PeerAuthentication {}", rule.name);
        let of_namespace = &*rule.name.namespace;
        let in_root = of_namespace == scene.mesh.root_namespace;
        if rule.labels.is_some() {
            if in_root {
                problems.push(Problem::new(
                    &source.origin,
                    object,
                    "spec.selector",
                    "a PeerAuthentication of the root namespace is for all workloads; as in Istio, one with a selector has no effect there",
                    "put it into the namespace of the workloads",
                ));
                continue;
            }
        } else if let Some(older) = whole.get(of_namespace) {
            let what = if in_root { "mesh" } else { "namespace" };
            let (older, origin) = (name(&older.object.metadata), &older.origin);
            problems.push(Problem::new(
                &source.origin,
                object,
                "metadata.creationTimestamp",
                format!(
                    "PeerAuthentication {of_namespace}/{older} in {origin} is older and holds for the whole {what}; this one has no effect"
                ),
                "keep one of them",
            ));
            continue;
        } else {
            whole.insert(of_namespace.into(), source);
        }
        if in_root {
            rules.mesh = Some(rule);
        } else {
            let own = rules.others.entry(of_namespace.into()).or_default();
            own.push(rule);
        }
    }
}

/// Oldest first; without a timestamp last, since such an object has no known age.
fn age_order<'a>(it: &'a Aged<'_>) -> (bool, Option<&'a jiff::Timestamp>, &'a str) {
    let meta = &it.source.object.metadata;
    let created = meta.creation_timestamp.as_ref().map(|time| &time.0);
    (created.is_none(), created, name(meta))
}

fn compile(source: &Sourced<PeerAuthentication>, report: &mut Report<'_>) -> PeerRule {
    let PeerAuthentication { metadata, spec, .. } = &source.object;
    let selects = |selector: &&LabelSelector| !selector.match_labels.is_empty();
    let selector = spec.selector.as_ref().filter(selects);
    if let Some(selector) = selector {
        selector::check(selector, report);
    }
    let annotations = metadata.annotations.as_ref();
    if annotations.is_some_and(|all| all.contains_key(DRY_RUN)) {
        report.fault(
            format!("metadata.annotations[{DRY_RUN}]"),
            "a PeerAuthentication cannot be tried out",
            "remove the annotation",
        );
    }
    let ports = spec.port_level_mtls.as_ref();
    let ports = ports.map(|ports| port_modes(ports, selector.is_some(), report));
    PeerRule {
        name: PolicyRef {
            namespace: namespace(metadata).into(),
            name: name(metadata).into(),
        },
        labels: selector.map(labels),
        mode: spec.mtls.as_ref().and_then(mode),
        ports: ports.unwrap_or_default().into(),
    }
}

/// Modes by port, without those that are inherited.
fn port_modes(
    written: &BTreeMap<String, MutualTls>,
    has_selector: bool,
    report: &mut Report<'_>,
) -> Vec<(u16, MtlsMode)> {
    const FIELD: &str = "spec.portLevelMtls";
    if written.is_empty() {
        let message = "it is there and empty, which says nothing of any port";
        report.fault(
            FIELD,
            message,
            "write the ports that are meant, or remove it",
        );
    } else if !has_selector {
        let message = "modes of ports need a selector";
        report.fault(FIELD, message, "select the workloads whose ports are meant");
    }
    let mut modes: BTreeMap<u16, Option<MtlsMode>> = BTreeMap::new();
    for (text, mtls) in written {
        let at = format!("{FIELD}[{text}]");
        let Some(port) = values::port(text) else {
            let message = format!("{text:?} is not a TCP port");
            report.fault(at, message, "write a number from 1 to 65535");
            continue;
        };
        let mode = mode(mtls);
        if modes.insert(port, mode).is_some_and(|other| other != mode) {
            let message = format!("port {port} is there twice, with two modes");
            report.fault(at, message, "keep one of them");
        }
    }
    let own = modes.into_iter();
    own.filter_map(|(port, mode)| Some((port, mode?))).collect()
}

fn mode(mtls: &MutualTls) -> Option<MtlsMode> {
    match mtls.mode {
        MutualTlsMode::Unset => None,
        MutualTlsMode::Disable => Some(MtlsMode::Disable),
        MutualTlsMode::Permissive => Some(MtlsMode::Permissive),
        MutualTlsMode::Strict => Some(MtlsMode::Strict),
    }
}
