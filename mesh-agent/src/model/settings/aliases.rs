//! `spec.trustDomainAliases` of the `MeshConfig`: further names of the mesh's own trust
//! domain in policies. Called by [`settings`](super::settings()).

use super::super::object::Origin;
use super::super::problem::Problem;
use super::MESH_CONFIG;
use crate::identity::TrustDomain;

/// Reads the aliases. While one of them cannot be used, those `in_force` stay: without one,
/// a DENY policy that names it would no longer match.
pub(super) fn aliases(
    texts: &[String],
    origin: &Origin,
    in_force: Option<&[TrustDomain]>,
    problems: &mut Vec<Problem>,
) -> Vec<TrustDomain> {
    let mut aliases = Vec::with_capacity(texts.len());
    let mut all_read = true;
    for (i, text) in texts.iter().enumerate() {
        match TrustDomain::new(text) {
            Ok(alias) if aliases.contains(&alias) => {}
            Ok(alias) => aliases.push(alias),
            Err(error) => {
                all_read = false;
                problems.push(Problem::new(
                    origin,
                    MESH_CONFIG,
                    format!("spec.trustDomainAliases[{i}]"),
                    error.to_string(),
                    match in_force {
                        Some(_) => "correct it; until then the aliases in force stay",
                        None => "correct it; until then the other aliases are in force",
                    },
                ));
            }
        }
    }
    match in_force {
        Some(in_force) if !all_read => in_force.to_vec(),
        _ => aliases,
    }
}
