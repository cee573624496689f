//! Judging what stands again: when trust changes, connections whose peer was revoked, or
//! whose root or trust domain is no longer trusted, are cut; when the configuration
//! changes, those that its policies no longer allow. Called by the agent each time the
//! [`TrustStore`](crate::identity::TrustStore) has news, or the configuration has.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Generation, Shared, Workers};
use crate::identity::Trust;
use crate::observe::{Direction, LiveConnection, PodLabels, Reason, Security};
use crate::policy::{self, Denial, InboundRequest, Peer, Target};
use crate::tls::{HandshakeFailure, Session};

/// Cuts every connection whose peer the trust in force no longer supports, then the
/// tunnels that carried them, and says how many connections. Each is reset at both ends
/// and logged with its reason.
pub async fn judge(shared: &Shared, workers: &Workers) -> usize {
    let trust = shared.trust.current();
    let cut = cut_connections(shared, &trust);
    shared.judged.send_replace(trust.number());
    workers.judge().await;
    cut
}

/// Looks at each tunnel once, however many connections it carries.
fn cut_connections(shared: &Shared, trust: &Trust) -> usize {
    let (now, mut looked_at) = (SystemTime::now(), HashMap::new());
    shared.observer.cut_judged(|connection| {
        let session = connection.session()?;
        let look = |session: &Arc<Session>| session.confirm(trust, now).err().map(reason);
        looked_at
            .entry(Arc::as_ptr(&session))
            // Holding it keeps its address from being another's.
            .or_insert_with(|| (look(&session), session))
            .0
    })
}

/// Cuts every connection that the configuration in force would no longer allow, and says
/// how many. Those of pods that left the mesh go on.
pub fn judge_policies(shared: &Shared) -> usize {
    let generation = shared.generation.load_full();
    shared
        .observer
        .cut_judged(|connection| refused_for(connection, &generation))
}

/// Why policy would refuse the connection now, if it would. One whose ends are not settled
/// yet is still to be decided, by whoever settles them.
pub(super) fn refused_for(connection: &LiveConnection, generation: &Generation) -> Option<Reason> {
    let world = &*generation.world;
    let (policies, mesh) = (world.policies(), world.mesh());
    let session = connection.session();
    let source = connection.source().ip();
    // By the pods of the two ends and not by their addresses, which may be in dispute by now.
    let named = |labels: &PodLabels| world.workload_named(&labels.namespace, &labels.name);
    let meshed = |labels| named(labels).filter(|workload| workload.meshed);
    match (connection.direction(), connection.security()) {
        (Direction::Inbound, Some(_)) => {
            let to = connection.destination();
            let destination = meshed(connection.pod())?;
            let request = InboundRequest {
                destination,
                port: to.port(),
                destination_ip: to.ip(),
                peer: session.as_ref().map_or(Peer::Plaintext, |session| {
                    Peer::Authenticated(&session.peer)
                }),
                peer_ip: source,
                client_ip: connection.client().map_or(source, |client| client.ip()),
            };
            policy::inbound(policies, mesh, &request)
                .outcome
                .err()
                .map(change)
        }
        (Direction::Outbound, Some(Security::MutualTls { .. })) => {
            let (to, own) = connection.upstream().zip(meshed(connection.pod()))?;
            let peer = connection.peer()?;
            let destination = meshed(&peer)?;
            let target = Target::Meshed(InboundRequest {
                destination,
                port: to.port(),
                destination_ip: to.ip(),
                peer: Peer::Authenticated(&own.identity),
                peer_ip: source,
                client_ip: source,
            });
            let decision = policy::outbound(policies, mesh, &target, generation.complete);
            decision.outcome.err().map(change)
        }
        _ => None,
    }
}

/// A trust domain that is trusted no longer is no change of policy.
fn change(denial: Denial) -> Reason {
    match denial {
        Denial::ForeignTrustDomain { .. } => Reason::PeerUntrusted,
        _ => Reason::PolicyChanged,
    }
}

fn reason(failure: HandshakeFailure) -> Reason {
    match failure {
        HandshakeFailure::Revoked { .. } => Reason::PeerRevoked,
        _ => Reason::PeerUntrusted,
    }
}
