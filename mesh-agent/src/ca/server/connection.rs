//! One connection: handshake, HTTP/2, and the reasons for which it ends. Spawned by
//! [`super::Server`].

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::grpc::{Caller, Service};
use crate::handshakes::{Dropped, Handshakes, Slot};
use crate::tls::{HANDSHAKE_DEADLINE, random_fraction};

/// Time for a new connection's first call from somebody who is known. Afterwards it
/// may rest: clients keep connections for later.
const PROOF_DEADLINE: Duration = Duration::from_secs(20);

/// Longest life of a connection: then its client proves itself anew, and one that
/// holds streams without reading them has held them for good no longer.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// Time for open calls when a connection's life is over.
const GRACE: Duration = Duration::from_secs(10);

/// How often an open connection is asked for a sign of life, and how long it has for
/// it: a client that vanished is gone within ten seconds.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Calls at once on one connection. An agent's certificates come in bursts when it
/// starts; more than these wait in the client.
const MAX_STREAMS: u32 = 64;

/// Header bytes of one call: a projected ServiceAccount token is about 1 KiB long.
const MAX_HEADER_BYTES: u32 = 16 * 1024;

/// Unsent answer bytes of one call.
const MAX_UNSENT: usize = 256 * 1024;

/// Why a connection may not stay.
enum Lost {
    /// No known caller called in time.
    Unproved,
    /// Another connection needed its slot.
    Place(Dropped),
}

pub(super) struct Connections {
    pub(super) tls: TlsAcceptor,
    pub(super) service: Arc<Service>,
    /// Connections on which no known caller has called.
    pub(super) unproved: Arc<Handshakes>,
    /// Those on which one has.
    pub(super) known: Arc<Handshakes>,
    /// The server is to end.
    pub(super) draining: watch::Receiver<bool>,
}

impl Connections {
    /// Serves one connection to its end, or for as long as its slot is not needed for another.
    pub(super) async fn serve(&self, socket: TcpStream, peer: SocketAddr, slot: Slot) {
        // Answers are small, and somebody waits for each.
        let _ = socket.set_nodelay(true);
        let handshake = async {
            tokio::select! {
                biased;
                // An error is for the handshake to find.
                _ = socket.readable() => {}
                why = slot.overdue() => return Err(why.to_string()),
            }
            slot.spoke();
            let handshake = self.tls.accept(socket);
            handshake.await.map_err(|error| error.to_string())
        };
        let handshake = tokio::time::timeout(HANDSHAKE_DEADLINE, handshake);
        let stream = tokio::select! {
            handshake = handshake => match handshake {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::debug!(%peer, %error, "handshake failed");
                    return;
                }
                Err(_) => {
                    tracing::debug!(%peer, "no handshake in time");
                    return;
                }
            },
            why = slot.evicted() => {
                tracing::debug!(%peer, %why, "connection dropped");
                return;
            }
        };
        let (proved, mut proofs) = watch::channel(false);
        let proved = Arc::new(proved);
        let (end, ending) = watch::channel(false);
        let service = service_fn(|request: http::Request<Incoming>| {
            let caller = Caller {
                peer,
                ending: ending.clone(),
                proved: Arc::clone(&proved),
            };
            let service = Arc::clone(&self.service);
            async move { Ok::<_, Infallible>(service.answer(request, caller).await) }
        });
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADER_BYTES)
            .max_send_buf_size(MAX_UNSENT)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let mut draining = self.draining.clone();
        let known = Arc::clone(&self.known);
        let place_lost = async move {
            let proof = async { drop(proofs.wait_for(|proved| *proved).await) };
            tokio::select! {
                biased;
                proof = tokio::time::timeout(PROOF_DEADLINE, proof) => {
                    if proof.is_err() {
                        return Lost::Unproved;
                    }
                }
                why = slot.evicted() => return Lost::Place(why),
            }
            let place = known.admit(peer.ip().to_canonical());
            drop(slot);
            place.spoke();
            Lost::Place(place.evicted().await)
        };
        // Spread, so that the agents of a cluster do not come back together.
        let age = MAX_AGE.mul_f64(1.0 - 0.2 * random_fraction());
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "connection ended");
                }
                return;
            }
            lost = place_lost => match lost {
                Lost::Unproved => tracing::info!(%peer, "nobody we know called within {} s, closing", PROOF_DEADLINE.as_secs()),
                Lost::Place(why) => {
                    tracing::debug!(%peer, %why, "connection dropped");
                    return;
                }
            },
            () = tokio::time::sleep(age) => {}
            _ = draining.wait_for(|draining| *draining) => {}
        }
        end.send_replace(true);
        connection.as_mut().graceful_shutdown();
        // What is still open after that is cut when the connection is dropped.
        let _ = tokio::time::timeout(GRACE, connection).await;
    }
}
