//! Policies and rules that change nothing because of another: the same again, or one that
//! already refuses, or lets in, everything.

use super::{Origins, warning};
use crate::model::Problem;
use crate::policy::{Action, LastGood, Policies, Policy, Scope};

pub(super) fn check(policies: &Policies, origins: &Origins<'_>, found: &mut Vec<Problem>) {
    let all: Vec<&LastGood> = policies.known.authorization.values().collect();
    for (number, good) in all.iter().enumerate() {
        within(&good.policy, origins, found);
        let name = good.policy.name.to_string();
        let mut others = all.iter().enumerate();
        let shadow = others.find_map(|(other, it)| {
            let first = other < number;
            (other != number)
                .then(|| shadows(it, good, first))
                .flatten()
        });
        if let Some(message) = shadow {
            let cure = "remove it, or narrow the other";
            found.extend(warning(origins, &name, "spec", message, cure));
        }
    }
}

/// What `other` makes of `good`; of two that are alike the `first` stays.
fn shadows(other: &LastGood, good: &LastGood, first: bool) -> Option<String> {
    let (by, policy) = (&other.policy, &good.policy);
    let name = &by.name;
    let alike = by.action == policy.action && by.dry_run == policy.dry_run;
    if alike && by.rules == policy.rules && other.scope == good.scope {
        return first.then(|| format!("AuthorizationPolicy {name} says the same"));
    }
    let equal = alike && other.scope == good.scope && is_everything(policy);
    if by.dry_run || policy.dry_run || !is_everything(by) || !covers(&other.scope, &good.scope) {
        return None;
    }
    match (by.action, policy.action) {
        (Action::Deny, Action::Allow) => Some(format!(
            "AuthorizationPolicy {name} denies everything, so nothing that this one allows gets in"
        )),
        (Action::Deny, Action::Deny) if !equal || first => Some(format!(
            "AuthorizationPolicy {name} denies everything already"
        )),
        (Action::Allow, Action::Allow) if !equal || first => Some(format!(
            "AuthorizationPolicy {name} allows everything, so this one allows nothing more"
        )),
        _ => None,
    }
}

/// Rules of one policy that another of it makes idle.
fn within(policy: &Policy, origins: &Origins<'_>, found: &mut Vec<Problem>) {
    let name = policy.name.to_string();
    let everything = policy.rules.iter().position(|rule| rule.is_everything());
    for (number, rule) in policy.rules.iter().enumerate() {
        let message = if let Some(all) = everything.filter(|all| *all != number) {
            format!("spec.rules[{all}] matches everything already")
        } else if let Some(same) = policy.rules[..number].iter().position(|it| it == rule) {
            format!("it says the same as spec.rules[{same}]")
        } else {
            continue;
        };
        let field = format!("spec.rules[{number}]");
        let cure = "keep the one that is meant";
        found.extend(warning(origins, &name, field, message, cure));
    }
}

fn is_everything(policy: &Policy) -> bool {
    policy.rules.iter().any(|rule| rule.is_everything())
}

/// Whether every workload of `narrow`, at every port, is one of `wide`.
fn covers(wide: &Scope, narrow: &Scope) -> bool {
    match (wide, narrow) {
        (
            Scope::Labels { namespace, labels },
            Scope::Labels {
                namespace: other,
                labels: others,
            },
        ) => {
            let same = namespace.is_none() || namespace == other;
            same && labels.0.iter().all(|label| others.0.contains(label))
        }
        (Scope::Labels { namespace, labels }, Scope::Workloads(workloads)) => {
            let inside = |uid: &str| match namespace {
                None => true,
                Some(namespace) => uid
                    .strip_prefix(&**namespace)
                    .is_some_and(|rest| rest.starts_with('/')),
            };
            labels.0.is_empty() && workloads.keys().all(|uid| inside(uid))
        }
        (wide, narrow) => wide == narrow,
    }
}
