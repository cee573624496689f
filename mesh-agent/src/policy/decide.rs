//! The verdict itself. The order is Istio's: what cannot be used refuses, DENY before
//! ALLOW, and where there is an ALLOW policy one of them must match.
//! <https://istio.io/latest/docs/concepts/security/#implicit-enablement>

use std::sync::Arc;

use super::bucket::Policy;
use super::denial::{Denial, Identity, NearestMiss, PolicyRef};
use super::mtls::EffectiveMode;
use super::request::{InboundRequest, Peer, Seen};
use super::rule::Miss;
use super::set::{Policies, Selected};
use super::values::principal;
use super::{Decision, DryRun, Would};
use crate::model::{MeshSettings, MtlsMode};

/// How many rules are looked at for the nearest miss, so that a stream of refused
/// connections costs no more than this each.
const NEAREST_AMONG: usize = 512;

/// The whole decision on the destination's side.
pub(super) fn inbound(
    policies: &Policies,
    mesh: &MeshSettings,
    request: &InboundRequest<'_>,
) -> Decision<()> {
    if !policies.is_synced() {
        return Decision::plain(Err(Denial::NotSynced));
    }
    let selected = policies.selected(request.destination);
    match request.peer {
        Peer::Plaintext => {
            let EffectiveMode { mode, from } = selected.modes.of(request.port);
            if *mode == MtlsMode::Strict {
                let from = from.clone();
                return Decision::plain(Err(Denial::PlaintextInStrict { from }));
            }
        }
        Peer::Authenticated(identity) if !mesh.trusts(identity.trust_domain()) => {
            return Decision::plain(Err(Denial::ForeignTrustDomain {
                presented: identity.trust_domain().clone(),
                own: mesh.trust_domain.clone(),
            }));
        }
        Peer::Authenticated(_) => {}
    }
    authorize(&selected, &request.seen())
}

/// The decision on the source's side. Whether the source's trust domain is trusted is
/// for the destination's mesh to say, which may be another.
pub(super) fn outbound(
    policies: &Policies,
    mesh: &MeshSettings,
    request: &InboundRequest<'_>,
) -> Decision<()> {
    if *request.destination.identity.trust_domain() != mesh.trust_domain {
        return Decision::plain(if policies.is_synced() {
            Ok(())
        } else {
            Err(Denial::NotSynced)
        });
    }
    inbound(policies, mesh, request)
}

fn authorize(selected: &Selected, seen: &Seen<'_>) -> Decision<()> {
    let mut allowed = false;
    let mut any_allow = false;
    let mut any_dry_run = false;
    let mut audited = Vec::new();
    let mut denial = None;
    let buckets = selected.at(seen.port);
    for bucket in buckets.clone() {
        if let Some(policy) = bucket.refuse.first() {
            denial.get_or_insert_with(|| unusable(policy, seen));
        }
        for (policy, _) in bucket.audit.matching(seen) {
            if !audited.contains(policy) {
                audited.push(policy.clone());
            }
        }
        any_allow |= !bucket.allow.is_empty();
        any_dry_run |= !(bucket.dry_deny.is_empty() && bucket.dry_allow.is_empty());
    }
    if denial.is_none() {
        let denied = buckets.clone().find_map(|bucket| bucket.deny.find(seen));
        denial = denied.map(|(policy, rule)| Denial::Policy {
            policy: policy.clone(),
            rule,
            identity: identity(seen),
        });
    }
    if any_allow && (denial.is_none() || any_dry_run) {
        allowed = buckets
            .clone()
            .any(|bucket| bucket.allow.find(seen).is_some());
    }
    if denial.is_none() && any_allow && !allowed {
        let policies = buckets.clone().flat_map(|bucket| bucket.allow.policies());
        denial = Some(Denial::NoAllow {
            nearest: nearest(policies, seen).map(Box::new),
            identity: identity(seen),
        });
    }
    let dry_run = if any_dry_run {
        on_trial(selected, seen, allowed)
    } else {
        Vec::new()
    };
    Decision {
        outcome: denial.map_or(Ok(()), Err),
        audited,
        dry_run,
    }
}

fn unusable(policy: &PolicyRef, seen: &Seen<'_>) -> Denial {
    Denial::PolicyUnusable {
        policy: policy.clone(),
        identity: identity(seen),
    }
}

fn identity(seen: &Seen<'_>) -> Identity {
    match seen.identity {
        Some(identity) => Identity::Proven(principal(identity).concat().into()),
        None => Identity::AbsentInPlaintext,
    }
}

/// The rule that had come furthest when it failed; the first of equals.
fn nearest<'a>(
    policies: impl Iterator<Item = &'a Arc<Policy>>,
    seen: &Seen<'_>,
) -> Option<NearestMiss> {
    let mut nearest: Option<(&Policy, Option<(usize, Miss<'_>)>)> = None;
    let mut looked_at = 0;
    for policy in policies {
        if looked_at >= NEAREST_AMONG {
            break;
        }
        looked_at += policy.rules.len().max(1);
        if policy.rules.is_empty() && nearest.is_none() {
            nearest = Some((policy, None));
        }
        for (number, rule) in policy.rules.iter().take(NEAREST_AMONG).enumerate() {
            let Err(miss) = rule.check(seen) else {
                continue;
            };
            let best = nearest.and_then(|(_, best)| best);
            if best.is_none_or(|(_, best)| best.depth < miss.depth) {
                nearest = Some((policy, Some((number, miss))));
            }
        }
    }
    let (policy, best) = nearest?;
    let policy = policy.name.clone();
    Some(match best {
        Some((rule, miss)) => NearestMiss {
            policy,
            rule: Some(rule),
            field: miss.at.field(),
            seen: miss.at.seen(seen),
            wanted: miss.at.wanted(),
        },
        None => NearestMiss {
            policy,
            rule: None,
            field: "spec.rules".to_owned(),
            seen: "a connection".to_owned(),
            wanted: "nothing: it has no rules".to_owned(),
        },
    })
}

/// What the policies on trial would do if they were enforced with all the others.
fn on_trial(selected: &Selected, seen: &Seen<'_>, allowed: bool) -> Vec<DryRun> {
    let mut verdicts = Vec::new();
    let says = |policy: &PolicyRef, rule, would| DryRun {
        policy: policy.clone(),
        rule,
        would,
    };
    let mut allowed = allowed;
    for bucket in selected.at(seen.port) {
        for (list, would) in [
            (&bucket.dry_deny, Would::Deny),
            (&bucket.dry_allow, Would::Allow),
        ] {
            for (policy, rule) in list.matching(seen) {
                allowed |= would == Would::Allow;
                if !verdicts.iter().any(|it: &DryRun| it.policy == *policy) {
                    verdicts.push(says(policy, Some(rule), would));
                }
            }
        }
    }
    if !allowed {
        let policies = selected
            .at(seen.port)
            .flat_map(|it| it.dry_allow.policies());
        verdicts.extend(policies.map(|policy| says(&policy.name, None, Would::Deny)));
    }
    verdicts
}
