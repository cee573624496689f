//! Policies that select the same workloads, laid out for the verdict: by action, and
//! each action's rules by the identity that they ask for, so that a verdict looks
//! only at rules that may match.

use std::collections::HashMap;
use std::sync::Arc;

use super::denial::PolicyRef;
use super::request::Seen;
use super::rule::{Group, Rule, Test, Values};
use super::values::Pattern;
use crate::identity::SpiffeId;

/// One authorization policy, ready to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) name: PolicyRef,
    pub(crate) action: Action,
    /// Evaluated and reported, never enforced.
    pub(crate) dry_run: bool,
    pub(crate) rules: Box<[Rule]>,
}

/// What becomes of a connection that a policy matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Allow,
    Deny,
    Audit,
    /// The policy cannot be used: everything is refused.
    Refuse,
}

/// The policies of one selection, ordered by name.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    pub(super) refuse: Vec<PolicyRef>,
    pub(super) deny: List,
    pub(super) allow: List,
    pub(super) audit: List,
    pub(super) dry_deny: List,
    pub(super) dry_allow: List,
}

/// Policies of one action.
#[derive(Debug, Default)]
pub(super) struct List {
    policies: Vec<Arc<Policy>>,
    /// Rules of which every match has this identity, this namespace or this account.
    by_identity: HashMap<SpiffeId, Vec<At>>,
    by_namespace: HashMap<Box<str>, Vec<At>>,
    by_account: HashMap<Box<str>, Vec<At>>,
    /// All other rules.
    others: Vec<At>,
    /// Every rule: an ID of another form than Istio's has no keys.
    all: Vec<At>,
}

/// A rule's place: which policy of the list, which rule of the policy.
type At = (u32, u32);

impl Bucket {
    pub(super) fn add(&mut self, policy: &Arc<Policy>) {
        let list = match (policy.action, policy.dry_run) {
            // Such a policy would refuse nothing, or report what nobody asked to see yet.
            (Action::Refuse | Action::Audit, true) => return,
            (Action::Refuse, false) => return self.refuse.push(policy.name.clone()),
            (Action::Deny, false) => &mut self.deny,
            (Action::Allow, false) => &mut self.allow,
            (Action::Deny, true) => &mut self.dry_deny,
            (Action::Allow, true) => &mut self.dry_allow,
            (Action::Audit, false) => &mut self.audit,
        };
        list.add(policy);
    }
}

impl List {
    fn add(&mut self, policy: &Arc<Policy>) {
        let number = u32::try_from(self.policies.len()).expect("fewer than 2^32 policies");
        self.policies.push(Arc::clone(policy));
        for (i, rule) in policy.rules.iter().enumerate() {
            let at = (number, u32::try_from(i).expect("fewer than 2^32 rules"));
            self.all.push(at);
            let Some(group) = rule.groups.iter().find(|group| is_key(group)) else {
                self.others.push(at);
                continue;
            };
            for test in group
                .any
                .iter()
                .filter_map(|clause| clause.all.iter().find(has_key))
            {
                self.file(test, at);
            }
        }
    }

    fn file(&mut self, test: &Test, at: At) {
        match &test.values {
            Values::Principals(principals) => {
                for key in principals.patterns().iter().filter_map(key) {
                    let places = match key {
                        Key::Identity(identity) => self.by_identity.entry(identity).or_default(),
                        Key::Namespace(name) => self.by_namespace.entry(name.into()).or_default(),
                        Key::Account(name) => self.by_account.entry(name.into()).or_default(),
                    };
                    enter(places, at);
                }
            }
            Values::Namespaces(patterns) => {
                for text in patterns.iter().filter_map(exact) {
                    enter(self.by_namespace.entry(text.into()).or_default(), at);
                }
            }
            Values::Accounts(accounts) => {
                for account in accounts {
                    let name = account.name.clone();
                    enter(self.by_account.entry(name).or_default(), at);
                }
            }
            _ => {}
        }
    }

    /// The rules that may match; the others cannot.
    fn candidates(&self, seen: &Seen<'_>) -> impl Iterator<Item = At> {
        let of_other_form = seen.identity.is_some_and(|id| id.path().is_some());
        let identity = seen.identity.filter(|_| !of_other_form);
        let by_identity = identity.and_then(|id| self.by_identity.get(id));
        let by_namespace = identity.and_then(|id| self.by_namespace.get(id.namespace()));
        let by_account = identity.and_then(|id| self.by_account.get(id.service_account()));
        let by_key = [by_identity, by_namespace, by_account];
        let by_key = by_key.into_iter().flatten().flatten();
        let rest = match of_other_form {
            true => &self.all,
            false => &self.others,
        };
        by_key.chain(rest).copied()
    }

    /// A rule that matches, if one does.
    pub(super) fn find(&self, seen: &Seen<'_>) -> Option<(&PolicyRef, usize)> {
        let mut matching = self.matching(seen);
        matching.next()
    }

    /// Every rule that matches.
    pub(super) fn matching(&self, seen: &Seen<'_>) -> impl Iterator<Item = (&PolicyRef, usize)> {
        let candidates = self.candidates(seen);
        candidates.filter_map(move |(policy, rule)| {
            let (policy, rule) = (&self.policies[policy as usize], rule as usize);
            let matched = policy.rules[rule].check(seen).is_ok();
            matched.then_some((&policy.name, rule))
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    pub(super) fn policies(&self) -> &[Arc<Policy>] {
        &self.policies
    }
}

fn enter(places: &mut Vec<At>, at: At) {
    if places.last() != Some(&at) {
        places.push(at);
    }
}

/// Whether nothing matches the group but what has one of a few identities.
fn is_key(group: &Group) -> bool {
    let mut clauses = group.any.iter();
    !group.any.is_empty() && clauses.all(|clause| clause.all.iter().any(|it| has_key(&it)))
}

fn has_key(test: &&Test) -> bool {
    !test.negated
        && match &test.values {
            Values::Principals(it) => it.patterns().iter().all(|it| key(it).is_some()),
            Values::Namespaces(patterns) => patterns.iter().all(|it| exact(it).is_some()),
            Values::Accounts(_) => true,
            _ => false,
        }
}

/// What every identity that a pattern matches has in common.
enum Key<'a> {
    Identity(SpiffeId),
    Namespace(&'a str),
    Account(&'a str),
}

/// `<trust domain>/ns/<namespace>/…*` is of one namespace, `*/sa/<account>` of one account.
fn key(pattern: &Pattern) -> Option<Key<'_>> {
    match pattern {
        Pattern::Exact(text) => {
            let identity = format!("spiffe://{text}").parse();
            identity.ok().map(Key::Identity)
        }
        Pattern::Prefix(text) => {
            let mut parts = text.splitn(4, '/');
            let (_, ns, namespace, rest) = (parts.next(), parts.next(), parts.next(), parts.next());
            (ns == Some("ns") && rest.is_some()).then_some(Key::Namespace(namespace?))
        }
        Pattern::Suffix(text) => {
            let (_, account) = text.rsplit_once("/sa/")?;
            Some(Key::Account(account))
        }
        Pattern::Present => None,
    }
}

fn exact(pattern: &Pattern) -> Option<&str> {
    match pattern {
        Pattern::Exact(text) => Some(text),
        _ => None,
    }
}
