//! A connection that happened: what was decided then, and what would be today.

use std::net::SocketAddr;
use std::sync::Arc;

use super::answer::{Asked, Explanation, Happened, Way};
use super::{Scene, explain, way};
use crate::addr::canonical;
use crate::identity::SpiffeId;
use crate::model::Workload;
use crate::observe::{Account, Direction, Outcome, Reason, Ruling};
use crate::policy::{InboundRequest, Peer};

/// Explains a connection that is open or has ended.
pub fn past(scene: &Scene<'_>, account: &Account) -> Explanation {
    let own = scene.world.workload(&account.pod.to_string());
    let now = match account.direction {
        Direction::Outbound => own.map(|own| explain(scene, own, canonical(account.destination))),
        Direction::Inbound => own
            .filter(|_| account.ruling.is_some())
            .map(|own| inbound(scene, account, own)),
    };
    let now = now.unwrap_or_else(|| unknown(scene, account));
    Explanation {
        happened: Some(happened(account)),
        ..now
    }
}

/// What policy would say today of one that came to the pod.
fn inbound(scene: &Scene<'_>, account: &Account, own: &Arc<Workload>) -> Explanation {
    let (source, to) = (canonical(account.source), canonical(account.destination));
    let identity: Option<SpiffeId> = account
        .peer_identity
        .as_deref()
        .and_then(|text| scene.world.mesh().id_forms.parse(text).ok());
    let request = InboundRequest {
        destination: own,
        port: to.port(),
        destination_ip: to.ip(),
        peer: identity
            .as_ref()
            .map_or(Peer::Plaintext, Peer::Authenticated),
        peer_ip: source.ip(),
        client_ip: account.client.map_or(source.ip(), |client| client.ip()),
    };
    let transport = match identity {
        Some(_) => "mutual_tls",
        None => "plaintext",
    };
    let way = Way {
        pod: Some(own.uid.to_string()),
        address: to.to_string(),
        identity: None,
        transport: Some(transport.to_owned()),
        mode: Some(way::mode(scene, &request)),
        network: Vec::new(),
        source: None,
        destination: Some(way::destination_side(scene, &request)),
    };
    let asked = asked_inbound(scene, account, source);
    let route = format!("pod {}", own.uid);
    Explanation::new(scene, asked, route, vec![way])
}

fn asked_inbound(scene: &Scene<'_>, account: &Account, source: SocketAddr) -> Asked {
    let from = scene.world.workload_by_ip(source.ip());
    let identity = account.peer_identity.as_deref().map(str::to_owned);
    let no_identity = match (&identity, &account.ruling) {
        (Some(_), _) => None,
        (None, Some(_)) => Some(way::no_identity(from.map(|it| &**it))),
        (None, None) => Some("the peer did not come so far as to prove one".to_owned()),
    };
    Asked {
        pod: from.map(|from| from.uid.to_string()),
        identity,
        no_identity,
        destination: account.destination.to_string(),
    }
}

/// Where policy had no part, or the pod is gone.
fn unknown(scene: &Scene<'_>, account: &Account) -> Explanation {
    let asked = match account.direction {
        Direction::Inbound => asked_inbound(scene, account, canonical(account.source)),
        Direction::Outbound => Asked {
            pod: Some(account.pod.to_string()),
            identity: Some(account.pod.identity.to_string()),
            no_identity: None,
            destination: account.destination.to_string(),
        },
    };
    let route = match account.ruling {
        None => "policy was not asked",
        Some(_) => "the pod is no longer in the configuration",
    };
    Explanation::new(scene, asked, route.to_owned(), Vec::new())
}

fn happened(account: &Account) -> Happened {
    let ruling = account.ruling.clone().unwrap_or_default();
    let reason = account.outcome.and_then(Outcome::reason);
    let text = |of: fn(Reason) -> &'static str| reason.map(|reason| of(reason).to_owned());
    Happened {
        id: account.id.to_string(),
        direction: account.direction.to_string(),
        pod: account.pod.to_string(),
        source: account.source.to_string(),
        destination: account.destination.to_string(),
        outcome: account.outcome.map_or("open", Outcome::as_str).to_owned(),
        reason: text(Reason::code),
        meaning: text(Reason::meaning),
        cure: text(Reason::cure),
        policy: ruling.policy().map(ToString::to_string),
        rule: ruling.rule(),
        detail: account.detail.as_deref().map(str::to_owned),
        nearest: nearest(&ruling),
        audited: ruling.audited.iter().map(ToString::to_string).collect(),
        dry_run: ruling.dry_run.iter().map(ToString::to_string).collect(),
    }
}

fn nearest(ruling: &Ruling) -> Option<super::Nearest> {
    way::nearest(ruling.denial.as_deref()?)
}
