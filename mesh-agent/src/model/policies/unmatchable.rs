//! Errors of policies that are in force and deny less than they seem to: a DENY rule that
//! matches no connection, a value that no peer has where it keeps peers out. The rest of the
//! policy stays in force.

use super::super::settings::MeshSettings;
use super::Report;
use crate::policy::{Action, Impossible, Policy};

const CURE: &str = "correct it; the rest of the policy is in force";

/// Reports what never matches.
pub(super) fn report(policy: &Policy, mesh: &MeshSettings, report: &mut Report<'_>) {
    let mut faulty = Vec::new();
    for it in policy.impossible_values(mesh) {
        let Impossible {
            rule,
            field,
            why,
            restricts,
        } = it;
        let field = format!("spec.rules[{rule}].{field}");
        if restricts {
            faulty.push(rule);
            report.mistake(field, why, CURE);
        } else if why.contains("spiffe://") {
            let cure = "write <trust domain>/ns/<namespace>/sa/<service account>";
            report.warning(field, why, cure);
        }
    }
    if policy.action != Action::Deny {
        return;
    }
    for (number, rule) in policy.rules.iter().enumerate() {
        if faulty.contains(&number) {
            continue;
        }
        if let Some(why) = rule.contradiction(mesh) {
            let message = format!("the rule can never match, so it denies nothing: {why}");
            let cure = "correct it or remove the rule; the rest of the policy is in force";
            report.mistake(format!("spec.rules[{number}]"), message, cure);
        }
    }
}
