//! AuthorizationPolicies. Which of them Istio takes for invalid is in its
//! `ValidateAuthorizationPolicy` (`pkg/config/validation`).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::object::{Sourced, name, namespace};
use super::super::problem::{Problem, Severity};
use super::super::schema::{AuthorizationPolicy, AuthorizationPolicySpec, PolicyAction, TargetRef};
use super::super::settings::MeshSettings;
use super::target_kind::{self, TargetKind};
use super::trial::{self, DRY_RUN};
use super::{
    Report, Scene, by_key, feared_scope, refusal, rules, scope, selector, targets, trust_domains,
    unmatchable,
};
use crate::policy::{Action, LastGood, Policy, PolicyRef, Scope};

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
            let targets = source.object.spec.targets().cloned().collect();
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

/// The workloads that an unusable policy may be meant for: none if it is for gateways, and with
/// other targets any of its namespace.
fn feared(policy: &AuthorizationPolicy, scene: &Scene<'_>) -> Scope {
    let spec = &policy.spec;
    if target_kind::only_gateways(spec) {
        return Scope::Workloads(BTreeMap::new());
    }
    let mut kinds = spec.targets().map(target_kind::kind);
    let selector = match kinds.all(|kind| kind == Some(TargetKind::Gateway)) {
        true => spec.selector.as_ref(),
        false => None,
    };
    feared_scope(Some(namespace(&policy.metadata)), selector, scene.mesh)
}

/// The targets of a policy, each with its field.
fn targets_by_field(spec: &AuthorizationPolicySpec) -> impl Iterator<Item = (String, &TargetRef)> {
    let one = spec.target_ref.iter();
    let one = one.map(|target| ("spec.targetRef".to_owned(), target));
    let all = spec.target_refs.iter().flatten().enumerate();
    one.chain(all.map(|(i, target)| (format!("spec.targetRefs[{i}]"), target)))
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
    let targets = good.targets.iter().map(|target| (String::new(), target));
    good.scope = services.scope(targets, of, &mut report);
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
    let gateways = target_kind::only_gateways(spec);
    let dry_run = dry_run(metadata, spec.action, report);
    let action = match spec.action {
        PolicyAction::Allow => Action::Allow,
        PolicyAction::Deny => Action::Deny,
        PolicyAction::Audit => Action::Audit,
        // For gateways it is for others to answer.
        PolicyAction::Custom if gateways => Action::Deny,
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
        report.fault(
            "spec.rules",
            "a DENY policy without rules matches nothing, and so denies nothing",
            "add a rule; \"- {}\" denies everything",
        );
    }
    let before = report.problems.len();
    let rules = spec.rules.iter().enumerate();
    let read_by = rules::Scope {
        action,
        namespace,
        mesh: scene.mesh,
    };
    let rules = rules.map(|(i, rule)| rules::rule(rule, i, read_by, report));
    let rules = rules.collect();
    if gateways {
        // What this agent does with HTTP is of no meaning there.
        let of_rules = report.problems.split_off(before);
        let errors = of_rules.into_iter();
        report
            .problems
            .extend(errors.filter(|it| it.severity == Severity::Error));
    }
    let policy = Policy {
        name: PolicyRef {
            namespace: namespace.into(),
            name: name.into(),
        },
        action,
        dry_run,
        rules,
    };
    // Values that could not be read are missing in an unusable one.
    if !report.unusable && !gateways {
        unmatchable::report(&policy, scene.mesh, report);
    }
    target_kind::check(spec, report);
    if let Some(selector) = &spec.selector {
        selector::check(selector, report);
    }
    let mut targets = targets_by_field(spec).peekable();
    let scope = if targets.peek().is_none() {
        scope(Some(namespace), spec.selector.as_ref(), scene.mesh)
    } else {
        for (at, target) in targets_by_field(spec) {
            target_kind::check_target(target, &at, report);
        }
        services.scope(targets, namespace, report)
    };
    (Arc::new(policy), scope)
}

/// Whether a policy is only evaluated. The annotation is for ALLOW and DENY, whatever it says
/// (Istio's `checkDryRunAnnotation`, `pkg/config/validation`).
fn dry_run(metadata: &ObjectMeta, action: PolicyAction, report: &mut Report<'_>) -> bool {
    let annotations = metadata.annotations.as_ref();
    let Some(text) = annotations.and_then(|all| all.get(DRY_RUN)) else {
        return false;
    };
    let field = format!("metadata.annotations[{DRY_RUN}]");
    if !matches!(action, PolicyAction::Allow | PolicyAction::Deny) {
        let message = "only policies with the action ALLOW or DENY can be tried out";
        report.fault(
            &*field,
            message,
            "remove the annotation, or change the action",
        );
    }
    let dry_run = trial::truth(text);
    if dry_run.is_none() {
        report.fault(
            field,
            format!("{text:?} is neither true nor false, so whether the policy is to be enforced is not known"),
            "write \"true\" or \"false\"",
        );
    }
    dry_run.unwrap_or_default()
}
