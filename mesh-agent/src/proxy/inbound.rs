//! A tunnel from another node: the TLS handshake that proves who is there, and
//! then each stream, from its CONNECT to the pod's application.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use super::Pod;
use super::dial::{self, DialError};
use super::end::{Failure, outcome};
use super::worker::Worker;
use crate::addr::{ClientAddr, HBONE_PORT};
use crate::budget::Budgeted;
use crate::hbone::{
    ConnectRequest, Incoming, Malformed, Refusal, TunnelError, TunnelSettings, server,
};
use crate::identity::TrustStore;
use crate::observe::{Connection, Direction, Opening, Outcome, Reason};
use crate::policy::{self, InboundRequest, Peer};
use crate::relay;
use crate::tls::{self, HANDSHAKE_DEADLINE, HandshakeFailure, Secured, Session};

/// Time in which the tunnels are drained whose roots changed, so that their peers do not all
/// shake hands in the same moment.
const ROOTS_CHANGED: Duration = Duration::from_secs(30);

/// Who is at the other end of a tunnel, as its handshake settled it.
struct Tunnel {
    worker: Rc<Worker>,
    pod: Arc<Pod>,
    /// The pod's address that the tunnel was opened to.
    local: SocketAddr,
    peer: SocketAddr,
    session: Arc<Session>,
    identity_text: Arc<str>,
}

/// Serves one connection to the pod's port 15008.
pub(super) async fn serve(
    worker: &Rc<Worker>,
    pod: &Arc<Pod>,
    stream: TcpStream,
    local: SocketAddr,
    peer: SocketAddr,
) {
    let secured = match handshake(worker, pod, stream, peer).await {
        Ok(secured) => secured,
        Err(failure) => return failure.record(open(worker, pod, peer, local)),
    };
    let session = secured.session;
    let tunnel = Rc::new(Tunnel {
        worker: Rc::clone(worker),
        pod: Arc::clone(pod),
        local,
        peer,
        identity_text: session.peer.to_string().into(),
        session: Arc::new(session),
    });
    streams(tunnel, secured.stream).await;
}

/// The handshake, for as long as its slots among the pod's and the agent's are not needed for
/// another connection.
async fn handshake(
    worker: &Worker,
    pod: &Pod,
    stream: TcpStream,
    peer: SocketAddr,
) -> Result<Secured<TlsStream<TcpStream>>, Failure> {
    let slots = [&pod.handshakes, &worker.shared.handshakes].map(|all| all.admit(peer.ip()));
    let credential = pod.credential()?;
    let mut deadline = pin!(tokio::time::sleep(HANDSHAKE_DEADLINE));
    let too_late = || Failure::from(HandshakeFailure::TimedOut(HANDSHAKE_DEADLINE));
    let [of_pod, of_agent] = &slots;
    let dropped = |why| Failure::denied(Reason::HandshakeLimit, why);
    let silent = tokio::select! {
        biased;
        // An error is for the handshake to find.
        _ = stream.readable() => None,
        why = of_pod.evicted() => Some(dropped(why)),
        why = of_agent.evicted() => Some(dropped(why)),
        why = of_pod.overdue() => Some(dropped(why)),
        why = of_agent.overdue() => Some(dropped(why)),
        () = &mut deadline => Some(too_late()),
    };
    if let Some(failure) = silent {
        relay::reset(stream);
        return Err(failure);
    }
    of_pod.spoke();
    of_agent.spoke();
    tokio::select! {
        biased;
        secured = tls::accept(&credential, stream) => Ok(secured?),
        why = of_pod.evicted() => Err(dropped(why)),
        why = of_agent.evicted() => Err(dropped(why)),
        () = &mut deadline => Err(too_late()),
    }
}

async fn streams(tunnel: Rc<Tunnel>, tls: TlsStream<TcpStream>) {
    let _open = tunnel.worker.shared.open_tunnel();
    let bad = |error| {
        let record = open(&tunnel.worker, &tunnel.pod, tunnel.peer, tunnel.local);
        Failure::denied(Reason::BadRequest, error).record(record);
    };
    let settings = TunnelSettings {
        budget: Some(Arc::clone(tunnel.pod.budget())),
        ..TunnelSettings::default()
    };
    let mut server = match server::serve(tls, &settings).await {
        Ok(server) => server,
        Err(error) => return bad(error),
    };
    let shared = &tunnel.worker.shared;
    let mut draining = shared.draining.subscribe();
    let mut judged = shared.judged.subscribe();
    let mut settings = shared.settings.subscribe();
    let mut last_call = false;
    let (session, spread) = (&tunnel.session, tls::random_fraction());
    server.drain_at(Instant::now() + session.time_to_renew(SystemTime::now(), spread));
    loop {
        tokio::select! {
            incoming = server.accept() => match incoming {
                Some(Ok(incoming)) => {
                    // It should have drained before; the clock was set.
                    last_call |= session.has_expired(SystemTime::now());
                    tokio::task::spawn_local(stream(Rc::clone(&tunnel), incoming));
                }
                // Streams under way were counted and logged, each with this as its end. A peer
                // that went away from an idle tunnel, or died, was refused nothing.
                Some(Err(error @ TunnelError::Protocol(_))) if server.streams_in_use() == 0 => {
                    return bad(error);
                }
                Some(Err(_)) | None => return,
            },
            _ = draining.wait_for(|draining| *draining), if !last_call => last_call = true,
            () = tunnel.pod.until_released(), if !last_call => last_call = true,
            () = tunnel.pod.until_gone() => return,
            Ok(()) = settings.changed(), if !last_call => last_call = true,
            // The streams were cut before this was told, each with its reason.
            Ok(()) = judged.changed() => {
                let (now, trust) = (SystemTime::now(), shared.trust.current());
                if session.confirm(&trust, now).is_err() {
                    return;
                }
                if !session.has_roots_of(&trust) {
                    // The peer is to prove itself under the new roots, before the old ones go.
                    server.drain_at(Instant::now() + ROOTS_CHANGED.mul_f64(spread));
                }
            }
        }
        if last_call {
            server.drain();
        }
    }
}

async fn stream(tunnel: Rc<Tunnel>, mut incoming: Incoming) {
    let record = match &incoming.request {
        Ok(request) => open(
            &tunnel.worker,
            &tunnel.pod,
            tunnel.peer,
            request.destination,
        ),
        Err(_) => open(&tunnel.worker, &tunnel.pod, tunnel.peer, tunnel.local),
    };
    record.set_peer_identity(Arc::clone(&tunnel.identity_text));
    record.set_session(Arc::clone(&tunnel.session));
    let request = incoming.request.clone();
    let connected = tokio::select! {
        connected = connect(&tunnel, &request, &record) => connected,
        () = record.cut() => Err((Refusal::Unavailable, Failure::cut(&record))),
        () = incoming.cancelled() => {
            Err((Refusal::Unavailable, Failure::refused(Reason::PeerReset)))
        }
    };
    match connected {
        Ok(app) => carry(&tunnel.pod, app, incoming, record).await,
        Err((refusal, failure)) => {
            incoming.refuse(refusal);
            failure.record(record);
        }
    }
}

async fn carry(pod: &Pod, app: Budgeted<TcpStream>, incoming: Incoming, mut record: Connection) {
    let Budgeted {
        inner: app,
        descriptor: _descriptor,
    } = app;
    let stream = match incoming.accept() {
        Ok(stream) => stream,
        Err(error) => {
            relay::reset(app);
            return record.finish_with(Outcome::Failed(Reason::TunnelLost), error);
        }
    };
    record.established();
    let budget = pod.budget();
    let end = relay::relay_tunnel(app, stream, record.meter(), budget, record.cut()).await;
    outcome(end, record);
}

/// Judges one CONNECT and dials the application. A refusal comes with the status
/// that the tunnel's client is to see.
async fn connect(
    tunnel: &Tunnel,
    request: &Result<ConnectRequest, Malformed>,
    record: &Connection,
) -> Result<Budgeted<TcpStream>, (Refusal, Failure)> {
    let request = request.as_ref().map_err(|malformed| {
        (
            Refusal::BadRequest,
            Failure::denied(Reason::BadRequest, malformed),
        )
    })?;
    let to = request.destination;
    if !is_own(to, tunnel.local, tunnel.pod.port()) {
        let detail = format!("CONNECT asked for {to} in the tunnel to {}", tunnel.local);
        let failure = Failure::denied(Reason::WrongDestination, detail);
        return Err((Refusal::BadRequest, failure));
    }
    let client = client(request, tunnel.peer);
    record.set_client(client.0);
    // A tunnel goes on when the pod's certificate has expired; it takes nothing new on.
    let credential = tunnel.pod.credential();
    credential
        .and_then(|credential| credential.usable())
        .map_err(|error| (Refusal::Unavailable, Failure::from(error)))?;
    let shared = &tunnel.worker.shared;
    still_holds(&tunnel.session, &shared.trust)
        .map_err(|failure| (Refusal::Unauthorized, Failure::from(failure)))?;
    let generation = shared.generation.load();
    let world = &generation.world;
    let decision = policy::inbound(
        world.policies(),
        world.mesh(),
        &InboundRequest {
            destination: &tunnel.pod.workload(),
            port: to.port(),
            destination_ip: to.ip(),
            peer: Peer::Authenticated(&tunnel.session.peer),
            peer_ip: tunnel.peer.ip(),
            client_ip: client.0.ip(),
        },
    );
    record.judged(&decision);
    let permit = decision
        .outcome
        .map_err(|denial| (Refusal::Unauthorized, Failure::from(denial)))?;
    dial::application(&tunnel.worker.shared, &tunnel.pod, &permit, to, client)
        .await
        .map_err(|error| (Refusal::Unavailable, app_failure(error)))
}

/// A peer is asked for no more than its tunnel has shown, unless that no longer holds: a
/// certificate that was stolen is not to be good for ever in a tunnel that is kept open.
fn still_holds(session: &Session, trust: &TrustStore) -> Result<(), HandshakeFailure> {
    let now = SystemTime::now();
    session.confirm(&trust.current(), now)?;
    match session.has_expired(now) {
        true => Err(HandshakeFailure::Expired),
        false => Ok(()),
    }
}

/// Only the address that the tunnel itself was opened to, and none of the
/// agent's own ports.
fn is_own(asked: SocketAddr, tunnel: SocketAddr, listener_port: u16) -> bool {
    asked.ip() == tunnel.ip() && asked.port() != HBONE_PORT && asked.port() != listener_port
}

/// The client's own port is known from `forwarded` only; its address is believed
/// only where it is the one that the tunnel came from.
fn client(request: &ConnectRequest, peer: SocketAddr) -> ClientAddr {
    match request.forwarded_for {
        Some(client) if client.0.ip() == peer.ip() => client,
        _ => ClientAddr(peer),
    }
}

/// What a failure to reach the pod's own application is called.
pub(super) fn app_failure(error: DialError) -> Failure {
    let reason = match error {
        DialError::OverLimit(over) => return Failure::from(over),
        DialError::Refused { .. } => Reason::AppRefused,
        DialError::ClientUnpublished { .. } => Reason::ClientUnpublished,
        _ => Reason::AppUnreachable,
    };
    Failure::failed(reason, error)
}

/// The account of a connection that came to the pod.
pub(super) fn open(
    worker: &Worker,
    pod: &Pod,
    source: SocketAddr,
    destination: SocketAddr,
) -> Connection {
    let (direction, pod) = (Direction::Inbound, pod.labels());
    worker.shared.observer.open(Opening {
        direction,
        pod,
        source,
        destination,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_reaches_its_own_address_and_none_of_the_agents_ports() {
        let tunnel = "10.0.0.1:15008".parse().unwrap();
        for (asked, allowed) in [
            ("10.0.0.1:80", true),
            ("10.0.0.2:80", false),
            ("127.0.0.1:80", false),
            ("[::1]:80", false),
            ("10.0.0.1:15008", false),
            ("10.0.0.1:40000", false),
        ] {
            assert_eq!(
                is_own(asked.parse().unwrap(), tunnel, 40000),
                allowed,
                "{asked}"
            );
        }
    }

    #[test]
    fn a_forwarded_address_that_is_not_the_peers_is_not_believed() {
        let peer: SocketAddr = "10.0.0.2:33000".parse().unwrap();
        let request = |forwarded: Option<&str>| ConnectRequest {
            destination: "10.0.0.1:80".parse().unwrap(),
            forwarded_for: forwarded.map(|addr| ClientAddr(addr.parse().unwrap())),
            baggage: None,
            traceparent: None,
        };
        let port = |forwarded| client(&request(forwarded), peer).0.to_string();
        assert_eq!(port(Some("10.0.0.2:41000")), "10.0.0.2:41000");
        assert_eq!(port(Some("10.9.9.9:41000")), "10.0.0.2:33000");
        assert_eq!(port(None), "10.0.0.2:33000");
    }
}
