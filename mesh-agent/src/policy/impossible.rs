//! Values that no peer has: a principal with a scheme, a namespace that Kubernetes does not
//! allow. Where such a value restricts (in a DENY rule, in a `not…` field of an ALLOW rule),
//! the policy lets in more than its author meant.

use super::bucket::{Action, Policy};
use super::rule::{MissAt, Test, Values};
use super::values::Pattern;
use crate::identity::TrustDomain;
use crate::model::MeshSettings;

/// In a principal it stands for the own trust domain; in a list of trust domains it does not.
const LOCAL: &str = "cluster.local";

/// A value that never matches.
#[derive(Debug)]
pub(crate) struct Impossible {
    /// Which of the policy's rules, counted from 0.
    pub(crate) rule: usize,
    /// The field as a path in the rule.
    pub(crate) field: String,
    /// The value and the reason.
    pub(crate) why: String,
    /// Whether the policy lets in more because of it.
    pub(crate) restricts: bool,
}

impl Policy {
    /// All values that never match.
    pub(crate) fn impossible_values(&self, mesh: &MeshSettings) -> Vec<Impossible> {
        let mut found = Vec::new();
        for (rule, it) in self.rules.iter().enumerate() {
            for group in &it.groups {
                for clause in &group.any {
                    for test in &clause.all {
                        let (part, place) = (group.part, clause.place);
                        let values = impossible(test, mesh).into_iter();
                        found.extend(values.map(|why| Impossible {
                            rule,
                            field: MissAt::Test { part, place, test }.field(),
                            why,
                            restricts: restricts(self.action, test.negated),
                        }));
                    }
                }
            }
        }
        found
    }
}

/// Whether a value of such a field keeps connections out.
pub(crate) fn restricts(action: Action, negated: bool) -> bool {
    match action {
        Action::Deny => !negated,
        Action::Allow => negated,
        Action::Audit | Action::Refuse => false,
    }
}

fn impossible(test: &Test, mesh: &MeshSettings) -> Vec<String> {
    let said = |pattern: &Pattern, why: Option<&str>| {
        let text = pattern.to_string();
        // An empty value makes the policy unusable, and is reported as that.
        let why = why.filter(|_| !text.is_empty());
        why.map(|why| format!("{text:?} never matches: {why}"))
    };
    match &test.values {
        Values::Principals(principals) => {
            let written = principals.written().iter();
            written
                .filter_map(|it| said(it, principal(it, mesh)))
                .collect()
        }
        Values::Namespaces(patterns) => {
            let names = patterns.iter();
            names.filter_map(|it| said(it, namespace(it))).collect()
        }
        Values::TrustDomains(patterns) => {
            let domains = patterns.iter();
            domains
                .filter_map(|it| said(it, domain(it, mesh)))
                .collect()
        }
        _ => Vec::new(),
    }
}

/// The text that a peer's must have somewhere.
fn text(pattern: &Pattern) -> &str {
    match pattern {
        Pattern::Exact(text) | Pattern::Prefix(text) | Pattern::Suffix(text) => text,
        Pattern::Present => "",
    }
}

fn principal(pattern: &Pattern, mesh: &MeshSettings) -> Option<&'static str> {
    const FORM: &str = "an identity is <trust domain>/ns/<namespace>/sa/<service account>";
    const OTHER: &str = "it is not of the form that spiffeIdTemplate gives to its trust domain";
    let text = text(pattern);
    if text.starts_with("spiffe://") {
        return Some("principals are written without spiffe://");
    }
    if text.contains('*') {
        return Some("a star counts at one end only");
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
    if !text.bytes().all(allowed) {
        return Some("it has a character that no SPIFFE ID has");
    }
    let Some((domain, path)) = text.split_once('/') else {
        return matches!(pattern, Pattern::Exact(_)).then_some(FORM);
    };
    let domain = match is_local(domain, mesh) {
        true => mesh.trust_domain.as_str(),
        false => domain,
    };
    let has_template =
        TrustDomain::new(domain).is_ok_and(|domain| mesh.id_forms.template(&domain).is_some());
    match pattern {
        Pattern::Exact(_) => {
            let id = mesh.id_forms.parse(&format!("spiffe://{domain}/{path}"));
            let form = if has_template { OTHER } else { FORM };
            id.is_err().then_some(form)
        }
        Pattern::Prefix(_) if has_template => None,
        Pattern::Prefix(text) => (!begins_an_identity(text)).then_some(FORM),
        Pattern::Suffix(_) | Pattern::Present => None,
    }
}

/// Whether a principal's trust domain is a name of the mesh's own.
fn is_local(domain: &str, mesh: &MeshSettings) -> bool {
    domain == LOCAL || mesh.local_domains().any(|it| it.as_str() == domain)
}

/// Whether some identity begins with this text.
fn begins_an_identity(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    let last = parts.len() - 1;
    let is = |at: usize, word: &str| match parts.get(at) {
        None => true,
        Some(part) if at == last => word.starts_with(part),
        Some(part) => *part == word,
    };
    let is_name = |at: usize| parts.get(at).is_none_or(|it| at == last || !it.is_empty());
    let domain = last == 0 || TrustDomain::new(parts[0]).is_ok();
    domain && last < 5 && is(1, "ns") && is_name(2) && is(3, "sa")
}

fn namespace(pattern: &Pattern) -> Option<&'static str> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let all = text(pattern).bytes().all(allowed);
    (!all).then_some("it is not the name of a namespace")
}

fn domain(pattern: &Pattern, mesh: &MeshSettings) -> Option<&'static str> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    let all = text(pattern).bytes().all(allowed);
    if !all {
        return Some("it is not the name of a trust domain");
    }
    let is_trusted = || mesh.trusted_domains().any(|it| it.as_str() == LOCAL);
    let is_another = *pattern == Pattern::new(LOCAL) && !is_trusted();
    is_another.then_some(
        "trust domains are compared as they are in certificates, and this mesh's is another",
    )
}
