//! Rules that match nothing, whoever connects. Of DENY policies the model reports them,
//! since there they are errors.

use super::{Origins, warning};
use crate::model::{Problem, World};
use crate::policy::Action;

pub(super) fn check(world: &World, origins: &Origins<'_>, found: &mut Vec<Problem>) {
    for good in world.policies().known.authorization.values() {
        let policy = &good.policy;
        if policy.action == Action::Deny {
            continue;
        }
        for (number, rule) in policy.rules.iter().enumerate() {
            let Some(why) = rule.contradiction(world.mesh()) else {
                continue;
            };
            let message = format!("the rule can never match: {why}");
            let cure = "correct one of them, or remove the rule";
            let field = format!("spec.rules[{number}]");
            found.extend(warning(
                origins,
                &policy.name.to_string(),
                field,
                message,
                cure,
            ));
        }
    }
}
