//! The names of the mesh's own trust domain in principals: its own, `cluster.local`, and the
//! aliases of the MeshConfig each stand for all of them, as in Istio
//! (`pilot/pkg/trustdomain`). Istio does so in principals of four slashes only; here any
//! principal with a whole trust domain counts, so that `cluster.local/ns/shop/*` and
//! `cluster.local/ns/shop/sa/*` do not differ.

use std::sync::Arc;

use super::super::settings::MeshSettings;
use crate::policy::{Action, Pattern, Policy, Principals, Values, restricts};

/// In a principal, a name of the mesh's own trust domain whatever it is called.
const LOCAL: &str = "cluster.local";

/// The slashes of `<trust domain>/ns/<namespace>/sa/<service account>`.
const SLASHES: usize = 4;

/// The principals of a field of a policy with this action.
pub(super) fn expand(
    written: &[Pattern],
    mesh: &MeshSettings,
    action: Action,
    negated: bool,
) -> Principals {
    let mut expanded = Vec::with_capacity(written.len());
    for pattern in written {
        let both_meanings = restricts(action, negated) && names_another_mesh(pattern, mesh);
        let domains = domains(pattern, mesh);
        if domains.is_empty() || both_meanings {
            add(&mut expanded, pattern.clone());
        }
        for it in domains {
            add(&mut expanded, it);
        }
    }
    Principals::new(written.into(), expanded.into())
}

/// A policy that was compiled under other settings, under these.
pub(super) fn renewed(policy: &Arc<Policy>, mesh: &MeshSettings) -> Arc<Policy> {
    let mut renewed = Policy::clone(policy);
    for test in renewed
        .rules
        .iter_mut()
        .flat_map(|rule| &mut rule.groups)
        .flat_map(|group| &mut group.any)
        .flat_map(|clause| &mut clause.all)
    {
        if let Values::Principals(principals) = &mut test.values {
            *principals = expand(principals.written(), mesh, policy.action, test.negated);
        }
    }
    match renewed == **policy {
        true => Arc::clone(policy),
        false => Arc::new(renewed),
    }
}

/// The pattern for each name of the own trust domain; none if its trust domain is another, or
/// it has none.
fn domains(pattern: &Pattern, mesh: &MeshSettings) -> Vec<Pattern> {
    let text = pattern.to_string();
    let Some((domain, path)) = text.split_once('/') else {
        return Vec::new();
    };
    let has_star = domain.contains('*');
    // A star there can be of a namespace as well, unless all parts of an identity are written.
    if domain == "*" || (has_star && text.matches('/').count() != SLASHES) {
        return Vec::new();
    }
    let matched = Pattern::new(domain);
    let is_local = |name: &str| matched.matches(&[name]);
    let mut names = mesh.local_domains().map(|it| it.as_str());
    if !(domain == LOCAL || names.any(is_local)) {
        return Vec::new();
    }
    let of = |name: &str| {
        // It matches this domain as it is written.
        if has_star && domain.starts_with('*') && is_local(name) {
            return pattern.clone();
        }
        Pattern::new(&format!("{name}/{path}"))
    };
    mesh.local_domains().map(|it| of(it.as_str())).collect()
}

/// Whether the pattern names `cluster.local`, which is also the trust domain of another mesh
/// that this one trusts. Then a field that keeps connections out keeps out both.
fn names_another_mesh(pattern: &Pattern, mesh: &MeshSettings) -> bool {
    let text = pattern.to_string();
    let domain = text.split_once('/').map(|(domain, _)| domain);
    domain == Some(LOCAL) && mesh.trusted_domains().any(|it| it.as_str() == LOCAL)
}

fn add(patterns: &mut Vec<Pattern>, pattern: Pattern) {
    if !patterns.contains(&pattern) {
        patterns.push(pattern);
    }
}
