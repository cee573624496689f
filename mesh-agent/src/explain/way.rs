//! One way of a connection, asked of the policy on both sides.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::answer::{Mode, Nearest, Side, Way};
use super::{NOT_MESHED, Scene};
use crate::model::Workload;
use crate::policy::{self, Basis, Decision, Denial, InboundRequest, NearestMiss, Peer, Target};

/// The owner of an address.
#[derive(Clone, Copy)]
pub(super) enum To<'a> {
    /// This pod.
    Workload(&'a Arc<Workload>),
    /// None that is known; the address is an endpoint of a Service.
    Endpoint,
    /// None that is known.
    Address,
}

/// What a pod meets on the way to `to`.
pub(super) fn explain(scene: &Scene<'_>, from: &Workload, owner: To<'_>, to: SocketAddr) -> Way {
    let workload = match owner {
        To::Workload(workload) => Some(workload),
        To::Endpoint | To::Address => None,
    };
    let own = from.addresses.contains(&to.ip());
    let meshed = workload.filter(|workload| workload.meshed && !own);
    let peer = match from.meshed {
        true => Peer::Authenticated(&from.identity),
        false => Peer::Plaintext,
    };
    let source_ip = source_ip(from, to.ip());
    let request = meshed.map(|destination| InboundRequest {
        destination,
        port: to.port(),
        destination_ip: to.ip(),
        peer,
        peer_ip: source_ip,
        client_ip: source_ip,
    });
    let world = scene.world;
    let range = match owner {
        To::Workload(_) => None,
        To::Endpoint | To::Address => world.cluster_range(to.ip()),
    };
    let target = match (&request, range) {
        _ if own => Target::SamePod,
        (Some(request), _) => Target::Meshed(*request),
        (None, Some(range)) => Target::Unlisted {
            address: to.ip(),
            range,
            is_endpoint: matches!(owner, To::Endpoint),
            stale: scene.stale,
        },
        (None, None) => Target::OutsideMesh,
    };
    let source = from.meshed.then(|| {
        let decision = policy::outbound(world.policies(), world.mesh(), &target, scene.complete);
        side(scene, &decision, request.as_ref())
    });
    let tunnel = from.meshed && request.is_some();
    Way {
        pod: workload.map(|it| it.uid.to_string()),
        address: to.to_string(),
        identity: meshed
            .filter(|_| from.meshed)
            .map(|it| it.identity.to_string()),
        transport: Some(if tunnel { "mutual_tls" } else { "plaintext" }.to_owned()),
        mode: request.as_ref().map(|request| mode(scene, request)),
        network: match meshed.filter(|_| tunnel) {
            Some(to) => network(scene, from, to),
            None => Vec::new(),
        },
        source,
        destination: request
            .as_ref()
            .map(|request| destination_side(scene, request)),
    }
}

/// The NetworkPolicies that keep a tunnel from its destination.
fn network(scene: &Scene<'_>, from: &Workload, to: &Workload) -> Vec<String> {
    let policies = scene.world.network_policies();
    let shut = [policies.shut_out_of(from), policies.shut_into(to)];
    shut.into_iter()
        .flatten()
        .map(|it| it.to_string())
        .collect()
}

/// The address of the family of `to` from which a pod connects.
fn source_ip(from: &Workload, to: IpAddr) -> IpAddr {
    let mut own = from.addresses.iter();
    let alike = own.find(|ip| ip.is_ipv4() == to.is_ipv4());
    let unknown = match to {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    };
    alike.copied().unwrap_or(unknown)
}

/// What the destination's agent says.
pub(super) fn destination_side(scene: &Scene<'_>, request: &InboundRequest<'_>) -> Side {
    let world = scene.world;
    let decision = policy::inbound(world.policies(), world.mesh(), request);
    side(scene, &decision, Some(request))
}

pub(super) fn mode(scene: &Scene<'_>, request: &InboundRequest<'_>) -> Mode {
    let policies = scene.world.policies();
    let effective = policies.mtls_mode(request.destination, request.port);
    Mode {
        mode: effective.mode.as_str().to_owned(),
        from: effective.from.to_string(),
    }
}

fn side<P>(
    scene: &Scene<'_>,
    decision: &Decision<P>,
    request: Option<&InboundRequest<'_>>,
) -> Side {
    let audited = decision.audited.iter().map(ToString::to_string);
    let dry_run = decision.dry_run.iter().map(ToString::to_string);
    let noted = Side {
        audited: audited.collect(),
        dry_run: dry_run.collect(),
        ..Side::default()
    };
    match &decision.outcome {
        Err(denial) => refused(denial, noted),
        Ok(_) => allowed(scene, request, noted),
    }
}

fn refused(denial: &Denial, noted: Side) -> Side {
    let rule = match denial {
        Denial::Policy { rule, .. } => Some(*rule),
        _ => None,
    };
    Side {
        allowed: false,
        reason: Some(denial.reason().code().to_owned()),
        policy: denial.policy().map(ToString::to_string),
        rule,
        detail: denial.to_string(),
        cure: Some(denial.reason().cure().to_owned()),
        nearest: nearest(denial),
        ..noted
    }
}

fn allowed(scene: &Scene<'_>, request: Option<&InboundRequest<'_>>, noted: Side) -> Side {
    let Some(request) = request else {
        return Side {
            allowed: true,
            detail: "no policy holds for what is outside the mesh".to_owned(),
            ..noted
        };
    };
    let (policy, rule, detail) = match policy::basis(scene.world.policies(), request) {
        Basis::Rule { policy, rule } => {
            let detail = format!("AuthorizationPolicy {policy} allows it (spec.rules[{rule}])");
            (Some(policy.to_string()), Some(rule), detail)
        }
        Basis::NoAllowPolicy | Basis::None => {
            let detail = "no ALLOW policy holds for the workload, and no DENY policy matches";
            (None, None, detail.to_owned())
        }
    };
    Side {
        allowed: true,
        policy,
        rule,
        detail,
        ..noted
    }
}

/// The nearest miss, where a denial has one.
pub(super) fn nearest(denial: &Denial) -> Option<Nearest> {
    let Denial::NoAllow { nearest, .. } = denial else {
        return None;
    };
    let NearestMiss {
        policy,
        rule,
        field,
        seen,
        wanted,
    } = nearest.as_deref()?;
    Some(Nearest {
        policy: policy.to_string(),
        rule: *rule,
        field: field.clone(),
        seen: seen.clone(),
        wanted: wanted.clone(),
    })
}

/// Why a connection that came to a pod proves nothing.
pub(super) fn no_identity(from: Option<&Workload>) -> String {
    match from {
        Some(from) if !from.meshed => NOT_MESHED.to_owned(),
        _ => "it came in plaintext".to_owned(),
    }
}
