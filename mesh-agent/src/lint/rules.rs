//! Rules that match nothing, whoever connects.

use super::{Origins, warning};
use crate::model::{Problem, World};

pub(super) fn check(world: &World, origins: &Origins<'_>, found: &mut Vec<Problem>) {
    for good in world.policies().known.authorization.values() {
        let policy = &good.policy;
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
