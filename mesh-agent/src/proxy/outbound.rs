//! What the pod's application opened: from the original destination that the
//! kernel recorded to the last byte.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use super::balance::Busy;
use super::end::{Failure, outcome};
use super::retry::{self, Asked};
use super::route::{Candidate, Route};
use super::worker::Worker;
use super::{Generation, Pod, dial, judge};
use crate::addr::{ClientAddr, OriginalDst, canonical_ip};
use crate::budget::Budgeted;
use crate::hbone::{ConnectRequest, TraceParent, TunnelStream};
use crate::observe::{Connection, Direction, Opening, Outcome, Reason, Security};
use crate::policy::{self, InboundRequest, OutboundPermit, Peer, Target};
use crate::relay;

/// Pause before a workload that is joining the mesh is dialled again.
const JOINING_RETRY: Duration = Duration::from_millis(50);

/// The way onward, once it stands.
enum Upstream {
    Tunnel(TunnelStream),
    Plain(Budgeted<TcpStream>),
    /// The pod's own application, by way of a Service.
    Own(Budgeted<TcpStream>),
}

/// Serves one connection of the pod's application.
pub(super) async fn serve(worker: &Rc<Worker>, pod: &Arc<Pod>, app: TcpStream, source: SocketAddr) {
    let shared = &worker.shared;
    let recorded = shared.interceptor.original_destination(app.as_fd());
    let Some((destination, _cgroup)) = recorded else {
        // Never a guess: whoever dialled the listener itself is turned away.
        let listener = SocketAddr::new(source.ip(), pod.port());
        let record = open(worker, pod, source, listener);
        relay::reset(app);
        return record.finish(Outcome::Denied(Reason::NoOriginalDestination));
    };
    if shared.probes.arrived(pod.netns().cookie(), destination) {
        return; // it has proved what it should; closing it tells the other end
    }
    let mut record = open(worker, pod, source, destination.0);
    let generation = shared.generation.load_full();
    let connected = tokio::select! {
        connected = connect(worker, pod, &generation, destination, source, &record) => connected,
        () = record.cut() => Err(Failure::cut(&record)),
    };
    // Counted among the endpoint's connections until the end.
    let (upstream, _busy) = match connected {
        Ok(connected) => connected,
        Err(failure) => {
            relay::reset(app);
            return failure.record(record);
        }
    };
    // It was decided by the configuration of its beginning; that one changed, and with it
    // what stood was judged, goes unnoticed by a connection that was being made.
    let now = shared.generation.load();
    if now.number != generation.number
        && let Some(reason) = judge::refused_for(record.live(), &now)
    {
        record.live().cut(reason);
    }
    record.established();
    let (meter, cut) = (record.meter(), record.cut());
    let end = match upstream {
        Upstream::Tunnel(stream) => {
            relay::relay_tunnel(app, stream, meter, pod.budget(), cut).await
        }
        Upstream::Plain(onward) | Upstream::Own(onward) => {
            let Budgeted {
                inner,
                descriptor: _descriptor,
            } = onward;
            relay::relay_tcp(app, inner, meter, pod.budget(), cut).await
        }
    };
    outcome(end, record);
}

pub(super) fn open(
    worker: &Worker,
    pod: &Pod,
    source: SocketAddr,
    destination: SocketAddr,
) -> Connection {
    let (direction, pod) = (Direction::Outbound, pod.labels());
    worker.shared.observer.open(Opening {
        direction,
        pod,
        source,
        destination,
    })
}

async fn connect(
    worker: &Rc<Worker>,
    pod: &Arc<Pod>,
    generation: &Generation,
    destination: OriginalDst,
    source: SocketAddr,
    record: &Connection,
) -> Result<(Upstream, Option<Busy>), Failure> {
    let named = |failure| name_network_policies(failure, pod, generation, record);
    match Route::find(&generation.world, destination)? {
        Route::Direct(candidate) => {
            let way = attempt(worker, pod, generation, &candidate, source, record).await;
            Ok((way.map_err(named)?, None))
        }
        Route::Balanced(balanced) => {
            let asked = Asked {
                balanced: &balanced,
                port: destination.0.port(),
                client: canonical_ip(source.ip()),
            };
            let attempt = async |candidate: Candidate| {
                attempt(worker, pod, generation, &candidate, source, record).await
            };
            let made = retry::among(worker, &asked, record, attempt).await;
            let (upstream, busy) = made.map_err(named)?;
            Ok((upstream, Some(busy)))
        }
    }
}

/// Names the NetworkPolicies that keep a tunnel from its destination, where nothing came back.
fn name_network_policies(
    failure: Failure,
    pod: &Pod,
    generation: &Generation,
    record: &Connection,
) -> Failure {
    if !failure.is_unanswered() {
        return failure;
    }
    let world = &generation.world;
    let to = record.live().upstream();
    let to = to.and_then(|to| world.workload_by_ip(to.ip()));
    let Some(to) = to.filter(|to| to.meshed) else {
        return failure;
    };
    let policies = world.network_policies();
    let out = || policies.shut_out_of(&pod.workload());
    match policies.shut_into(to).or_else(out) {
        Some(shut) => failure.with_note(shut),
        None => failure,
    }
}

async fn attempt(
    worker: &Rc<Worker>,
    pod: &Arc<Pod>,
    generation: &Generation,
    candidate: &Candidate,
    source: SocketAddr,
    record: &Connection,
) -> Result<Upstream, Failure> {
    let to = candidate.addr;
    record.set_upstream(to);
    if let Some(workload) = &candidate.workload {
        record.set_peer(worker.labels.workload(workload));
    }
    let own = pod.workload();
    let world = &generation.world;
    let range = match &candidate.workload {
        None if !pod.owns(to.ip()) => world.cluster_range(to.ip()),
        _ => None,
    };
    let stale = range.and_then(|_| worker.shared.api.as_ref()?.staleness());
    let target = match &candidate.workload {
        _ if pod.owns(to.ip()) => Target::SamePod,
        Some(workload) if workload.meshed => Target::Meshed(InboundRequest {
            destination: workload,
            port: to.port(),
            destination_ip: to.ip(),
            peer: Peer::Authenticated(&own.identity),
            peer_ip: source.ip(),
            client_ip: source.ip(),
        }),
        Some(_) => Target::OutsideMesh,
        None => match range {
            Some(range) => Target::Unlisted {
                address: to.ip(),
                range,
                is_endpoint: candidate.is_endpoint,
                stale: stale.as_ref(),
            },
            None => Target::OutsideMesh,
        },
    };
    let decision = policy::outbound(world.policies(), world.mesh(), &target, generation.complete);
    if matches!(target, Target::Meshed(_)) {
        record.judged(&decision);
    }
    match decision.outcome? {
        OutboundPermit::Tunnel(permit) => {
            let request = request(pod, to, source);
            let workload = candidate.workload.as_ref();
            let joining = || workload.is_some_and(|workload| generation.is_joining(workload));
            let opened = loop {
                match worker
                    .tunnels
                    .open(&worker.shared, pod, &permit, &request)
                    .await
                {
                    Err(failure) if failure.is_refused() && joining() => {
                        // Its node reads the same change as we do, and tells nobody when it is done.
                        tokio::time::sleep(JOINING_RETRY).await;
                    }
                    settled => break settled,
                }
            };
            if opened
                .as_ref()
                .map_or_else(Failure::came_after_handshake, |_| true)
                && let Some(workload) = workload
            {
                let peer = worker.labels.workload(workload);
                record.set_peer_identity(Arc::clone(&peer.identity));
            }
            let stream = opened?;
            if let Some(session) = stream.session() {
                record.set_session(Arc::clone(session));
            }
            Ok(Upstream::Tunnel(stream))
        }
        OutboundPermit::Plain(permit) if matches!(target, Target::SamePod) => {
            record.set_security(Security::Plaintext);
            let client = ClientAddr(source);
            let own = dial::own_application(&worker.shared, pod, &permit, to, client).await?;
            Ok(Upstream::Own(own))
        }
        OutboundPermit::Plain(permit) => {
            record.set_security(Security::Plaintext);
            Ok(Upstream::Plain(
                dial::plain(&worker.shared, pod, &permit, to).await?,
            ))
        }
    }
}

fn request(pod: &Pod, to: SocketAddr, source: SocketAddr) -> ConnectRequest {
    ConnectRequest {
        destination: to,
        forwarded_for: Some(ClientAddr(source)),
        baggage: pod.baggage(),
        traceparent: Some(TraceParent::generate()),
    }
}
