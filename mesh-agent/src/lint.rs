//! What is wrong with a folder of configuration, found without an agent: all that the
//! model says of it, and what is in force and yet cannot be meant. Pure; `mesh-agent
//! policy lint` reads the folder.

mod rules;
mod selectors;
mod shadow;

use std::collections::HashMap;

use crate::config::Offline;
use crate::model::{AuthorizationPolicy, Origin, Problem, Sourced, key};

/// Everything that is wrong, errors first, then by file and object.
pub fn lint(folder: &Offline) -> Vec<Problem> {
    let world = &folder.loaded.world;
    let mut found = folder.loaded.problems.clone();
    let origins = origins(folder);
    selectors::check(folder, &mut found);
    rules::check(world, &origins, &mut found);
    shadow::check(world.policies(), &origins, &mut found);
    found.sort_by(|a, b| (a.severity, a).cmp(&(b.severity, b)));
    found.dedup();
    found
}

/// Where each AuthorizationPolicy was read, by `namespace/name`.
type Origins<'a> = HashMap<String, &'a Origin>;

fn origins(folder: &Offline) -> Origins<'_> {
    let policies = folder.sources.iter();
    let policies = policies.flat_map(|it| &it.authorization_policies);
    let of = |it: &&Sourced<AuthorizationPolicy>| key(&it.object.metadata);
    policies.map(|it| (of(&it), &it.origin)).collect()
}

/// A finding about a policy that is in force as it is written.
fn warning(
    origins: &Origins<'_>,
    policy: &str,
    field: impl Into<String>,
    message: impl Into<String>,
    cure: &str,
) -> Option<Problem> {
    let origin = origins.get(policy)?;
    let object = format!("AuthorizationPolicy {policy}");
    Some(Problem::new(origin, object, field, message, cure).into_warning())
}

#[cfg(test)]
mod tests;
