//! AuthorizationPolicies. Which of them Istio takes for invalid is in its
//! `ValidateAuthorizationPolicy` (`pkg/config/validation`).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::object::{Sourced, name, namespace};
use super::super::problem::Problem;
use super::super::schema::{AuthorizationPolicy, PolicyAction, TargetRef};
use super::super::settings::MeshSettings;
use super::{Report, Scene, by_key, refusal, rules, scope, targets, trust_domains, unmatchable};
use crate::policy::{Action, LastGood, Policy, PolicyRef, Scope};

/// Istio's annotation for a policy on trial.
const DRY_RUN: &str = "istio.io/dry-run";

type Compiled = (Arc<Policy>, Scope);

/// What is in force, and what of it is to be kept as a last good version.
pub(super) fn policies(
    scene: &Scene<'_>,
    problems: &mut Vec<Problem>,
) -> (Vec<Compiled>, BTreeMap<Box<str>, LastGood>) {
    let objects = scene.sources.iter();
    let objects = objects.flat_map(|objects| &objects.authorization_policies);
    let services = targets::Services::new(scene);
    let mut in_force = Vec::new();
    let mut known = BTreeMap::new();
    for (key, described) in by_key(objects, |it| &it.metadata) {
        let source = described[0];
        let mut report = Report::begin(
            "AuthorizationPolicy",
            &key,
            &described,
            |it| &it.metadata,
            problems,
        );
        let compiled = compile(source, scene, &services, &mut report);
        if !report.unusable {
            let (policy, scope) = compiled.clone();
            let targets = targets(&source.object).cloned().collect();
            let good = LastGood {
                policy,
                scope,
                targets,
            };
            known.insert(key.into(), good);
            in_force.push(compiled);
            continue;
        }
        let last_good = scene
            .previous
            .and_then(|it| it.known.authorization.get(&*key));
        let last_good = last_good.and_then(|good| again(good, &services, source, scene.mesh));
        if let Some(good) = last_good {
            in_force.push((Arc::clone(&good.policy), good.scope.clone()));
            known.insert(key.into(), good);
        } else if enforced(&compiled.0) {
            for source in &described {
                let scope = feared(&source.object, scene);
                in_force.push((refusal(compiled.0.name.clone()), scope));
            }
        }
    }
    (in_force, known)
}

/// What only reports cannot refuse by being wrong.
fn enforced(policy: &Policy) -> bool {
    !policy.dry_run && policy.action != Action::Audit
}

/// The workloads that an unusable policy may be meant for: with targets, any of its
/// namespace.
fn feared(policy: &AuthorizationPolicy, scene: &Scene<'_>) -> Scope {
    let namespace = namespace(&policy.metadata);
    scope(Some(namespace), policy.spec.selector.as_ref(), scene.mesh)
}

/// The Services that a policy names.
fn targets(policy: &AuthorizationPolicy) -> impl Iterator<Item = &TargetRef> {
    let one = policy.spec.target_ref.iter();
    one.chain(&policy.spec.target_refs)
}

/// An earlier version, for the workloads of today; `None` if a Service that it names
/// is gone, since then whom it is for is not known.
fn again(
    good: &LastGood,
    services: &targets::Services<'_>,
    source: &Sourced<AuthorizationPolicy>,
    mesh: &MeshSettings,
) -> Option<LastGood> {
    let mut good = good.clone();
    good.policy = trust_domains::renewed(&good.policy, mesh);
    if good.targets.is_empty() {
        return Some(good);
    }
    let mut report = Report {
        origin: &source.origin,
        object: String::new(),
        problems: &mut Vec::new(),
        unusable: false,
    };
    let of = namespace(&source.object.metadata);
    good.scope = services.scope(good.targets.iter(), of, &mut report);
    (!report.unusable).then_some(good)
}

fn compile(
    source: &Sourced<AuthorizationPolicy>,
    scene: &Scene<'_>,
    services: &targets::Services<'_>,
    report: &mut Report<'_>,
) -> Compiled {
    let AuthorizationPolicy { metadata, spec, .. } = &source.object;
    let (namespace, name) = (namespace(metadata), name(metadata));
    let dry_run = metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get(DRY_RUN));
    let dry_run = match dry_run.map(|text| text.parse::<bool>()) {
        None => false,
        Some(Ok(dry_run)) => dry_run,
        Some(Err(_)) => {
            report.fault(
                format!("metadata.annotations[{DRY_RUN}]"),
                "it is neither \"true\" nor \"false\", so whether the policy is to be enforced is not known",
                "write one of the two",
            );
            false
        }
    };
    let action = match spec.action {
        PolicyAction::Allow => Action::Allow,
        PolicyAction::Deny => Action::Deny,
        PolicyAction::Audit => Action::Audit,
        PolicyAction::Custom => {
            report.fault(
                "spec.action",
                "CUSTOM asks another service, which is not done here",
                "use ALLOW or DENY, or remove the policy",
            );
            Action::Deny
        }
    };
    if spec.provider.is_some() && spec.action != PolicyAction::Custom {
        let message = "a provider is for the action CUSTOM";
        report.fault("spec.provider", message, "remove it");
    }
    if spec.rules.is_empty() && spec.action == PolicyAction::Deny {
        report.mistake(
            "spec.rules",
            "a DENY policy without rules matches nothing, and so denies nothing",
            "add a rule; \"- {}\" denies everything",
        );
    }
    let rules = spec.rules.iter().enumerate();
    let read_by = rules::Scope {
        action,
        namespace,
        mesh: scene.mesh,
    };
    let rules = rules.map(|(i, rule)| rules::rule(rule, i, read_by, report));
    let policy = Policy {
        name: PolicyRef {
            namespace: namespace.into(),
            name: name.into(),
        },
        action,
        dry_run,
        rules: rules.collect(),
    };
    // Values that could not be read are missing in an unusable one.
    if !report.unusable {
        unmatchable::report(&policy, scene.mesh, report);
    }
    let mut targets = targets(&source.object).peekable();
    let scope = if targets.peek().is_none() {
        scope(Some(namespace), spec.selector.as_ref(), scene.mesh)
    } else {
        if spec.selector.is_some() {
            let message = "a policy has a selector or targetRefs, not both";
            report.fault("spec.selector", message, "keep one of them");
        }
        services.scope(targets, namespace, report)
    };
    (Arc::new(policy), scope)
}
