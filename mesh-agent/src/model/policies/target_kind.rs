//! Kinds that an AuthorizationPolicy may target, as Istio's `validatePolicyTargetReference`
//! (`pkg/config/validation`) and its CRD have them.

use super::super::schema::{AuthorizationPolicySpec, TargetRef};
use super::Report;

/// Targets of one policy at most (`maxItems` in Istio's CRD).
const MAX_TARGETS: usize = 16;
/// Bytes of a target's name at most.
const MAX_NAME: usize = 253;

/// What a target is to this agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TargetKind {
    /// A Service: the policy holds for the workloads behind it.
    Service,
    /// A gateway, a waypoint, or a ServiceEntry, which a waypoint serves: the policy holds for
    /// no workload.
    Gateway,
}

const GATEWAY_API: &str = "gateway.networking.k8s.io";

const KINDS: [(&str, &str, TargetKind); 5] = [
    ("", "Service", TargetKind::Service),
    ("core", "Service", TargetKind::Service),
    (GATEWAY_API, "Gateway", TargetKind::Gateway),
    (GATEWAY_API, "GatewayClass", TargetKind::Gateway),
    ("networking.istio.io", "ServiceEntry", TargetKind::Gateway),
];

/// `None` if Istio refuses the kind.
pub(super) fn kind(target: &TargetRef) -> Option<TargetKind> {
    named(&target.group, &target.kind)
}

fn named(group: &str, kind: &str) -> Option<TargetKind> {
    let mut kinds = KINDS.iter();
    kinds
        .find(|known| (known.0, known.1) == (group, kind))
        .map(|known| known.2)
}

/// Whether a kind is served by a gateway, so that a policy for it holds for no workload.
pub(crate) fn is_of_gateways(group: &str, kind: &str) -> bool {
    named(group, kind) == Some(TargetKind::Gateway)
}

/// Whether a policy is for gateways alone, so that it holds for no workload.
pub(super) fn only_gateways(spec: &AuthorizationPolicySpec) -> bool {
    let mut targets = spec.targets().peekable();
    spec.selector.is_none()
        && targets.peek().is_some()
        && targets.all(|target| kind(target) == Some(TargetKind::Gateway))
}

/// Reports what Istio refuses of the targets: their number, and selectors beside them.
pub(super) fn check(spec: &AuthorizationPolicySpec, report: &mut Report<'_>) {
    let refs = spec.target_refs.as_deref();
    if let Some(refs) = refs.filter(|refs| refs.len() > MAX_TARGETS) {
        let message = format!("it has {} targets; {MAX_TARGETS} are allowed", refs.len());
        report.fault("spec.targetRefs", message, "write a second policy");
    }
    let set = [
        ("spec.selector", spec.selector.is_some()),
        ("spec.targetRef", spec.target_ref.is_some()),
        ("spec.targetRefs", refs.is_some()),
    ];
    let mut set = set.iter().filter(|(_, is_set)| *is_set);
    if let (Some((field, _)), Some(_)) = (set.next(), set.next()) {
        let message = "a policy has one of selector, targetRef and targetRefs, and no second";
        report.fault(*field, message, "keep one of them");
    }
}

/// Reports what Istio refuses of one target, which is the field `at`.
pub(super) fn check_target(target: &TargetRef, at: &str, report: &mut Report<'_>) {
    if kind(target).is_none() {
        report.fault(
            format!("{at}.kind"),
            format!(
                "a policy cannot target kind {:?} of group {:?}",
                target.kind, target.group
            ),
            "name a Service, Gateway, GatewayClass or ServiceEntry with its group, or select workloads by their labels",
        );
    }
    if target.name.is_empty() || target.name.len() > MAX_NAME {
        let message = format!("a name has 1 to {MAX_NAME} characters");
        report.fault(format!("{at}.name"), message, "name the target");
    }
    if !target.namespace.is_empty() {
        let message = "a policy's targets are in its own namespace, which is not to be written";
        report.fault(
            format!("{at}.namespace"),
            message,
            "remove it, or move the policy",
        );
    }
}
