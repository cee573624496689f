//! What a verdict rests on, for whoever asks why: the rules that match a connection,
//! found by the same lists and the same check as the verdict.

use super::bucket::{Action, Bucket, List};
use super::denial::PolicyRef;
use super::request::InboundRequest;
use super::set::Policies;

/// Why the authorization policies let a connection in, if they do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Basis {
    /// No enforced ALLOW policy holds for the workload at this port.
    NoAllowPolicy,
    /// This rule of an ALLOW policy matches.
    Rule {
        /// The policy.
        policy: PolicyRef,
        /// Which of its rules, counted from 0.
        rule: usize,
    },
    /// There are ALLOW policies and none matches.
    None,
}

/// A rule, by its policy and its place in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleRef {
    /// The policy.
    pub policy: PolicyRef,
    /// Which of its rules, counted from 0.
    pub rule: usize,
}

/// What the ALLOW policies rest their leave on. DENY policies are not looked at.
pub fn basis(policies: &Policies, request: &InboundRequest<'_>) -> Basis {
    let selected = policies.selected(request.destination);
    let seen = request.seen();
    let mut buckets = selected.at(seen.port);
    if buckets.clone().all(|bucket| bucket.allow.is_empty()) {
        return Basis::NoAllowPolicy;
    }
    let found = buckets.find_map(|bucket| bucket.allow.find(&seen));
    found.map_or(Basis::None, |(policy, rule)| Basis::Rule {
        policy: policy.clone(),
        rule,
    })
}

/// Every rule that matches a connection, whatever its action, on trial or not.
pub fn matching(policies: &Policies, request: &InboundRequest<'_>) -> Vec<RuleRef> {
    let selected = policies.selected(request.destination);
    let seen = request.seen();
    let mut found = Vec::new();
    for list in selected.at(seen.port).flat_map(lists) {
        found.extend(list.matching(&seen).map(|(policy, rule)| RuleRef {
            policy: policy.clone(),
            rule,
        }));
    }
    found
}

fn lists(bucket: &Bucket) -> [&List; 5] {
    [
        &bucket.deny,
        &bucket.allow,
        &bucket.audit,
        &bucket.dry_deny,
        &bucket.dry_allow,
    ]
}

impl Policies {
    /// Every rule of every usable policy, in the order of the policies' names.
    pub fn rules(&self) -> impl Iterator<Item = RuleRef> {
        let policies = self.known.authorization.values().map(|good| &good.policy);
        let usable = policies.filter(|policy| policy.action != Action::Refuse);
        usable.flat_map(|policy| {
            (0..policy.rules.len()).map(|rule| RuleRef {
                policy: policy.name.clone(),
                rule,
            })
        })
    }
}

impl std::fmt::Display for RuleRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} spec.rules[{}]", self.policy, self.rule)
    }
}
