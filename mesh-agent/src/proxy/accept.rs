//! Accepting a pod's connections, and telling what each one is.

use std::io;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpStream;

use super::end::Failure;
use super::worker::{Job, Worker};
use super::{Pod, buffers, inbound, outbound, plaintext};
use crate::addr::{HBONE_PORT, canonical};
use crate::budget::Budgeted;
use crate::netns::Acceptor;
use crate::observe::Reason;

/// How long a released pod's listener still takes the connections whose TCP
/// handshakes were under way: one initial retransmission timeout (RFC 6298 §2).
const LAST_HANDSHAKES: Duration = Duration::from_secs(1);

/// Pause when a connection can be neither served nor refused, for want of memory or even of the
/// spare descriptor; the backlog holds the connections meanwhile.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(50);

/// Closing a socket with this sends RST.
const RESET: libc::linger = libc::linger {
    l_onoff: 1,
    l_linger: 0,
};

/// A connection with its place in the pod's budget.
pub(super) type Accepted = Budgeted<StdStream>;

/// What a connection on a pod's listener is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The pod's own application opened it; a kernel program sent it here.
    Outbound,
    /// Another node's agent opened it, to carry streams.
    Tunnel,
    /// A client without the mesh opened it.
    Plaintext,
}

/// Takes the pod's connections until the pod is released or the agent drains,
/// and gives each to the next worker in turn.
pub(super) async fn accept(worker: Rc<Worker>, pod: Arc<Pod>) {
    let Some(listener) = pod.take_listener() else {
        return; // somebody accepts already
    };
    let listener = match Acceptor::new(listener) {
        Ok(listener) => listener,
        Err(error) => return lost(&pod, &error),
    };
    let mut draining = worker.shared.draining.subscribe();
    tokio::select! {
        error = take(&worker, &pod, &listener) => lost(&pod, &error),
        _ = draining.wait_for(|draining| *draining) => {}
        () = pod.until_released() => tokio::select! {
            _ = take(&worker, &pod, &listener) => {}
            () = tokio::time::sleep(LAST_HANDSHAKES) => {}
            () = pod.until_gone() => {}
        },
    }
}

fn lost(pod: &Pod, error: &io::Error) {
    let pod = &pod.workload().uid;
    tracing::error!(%pod, %error, "the pod's listener failed: its new connections are refused");
}

/// Returns only when the listener itself fails.
async fn take(worker: &Rc<Worker>, pod: &Arc<Pod>, listener: &Acceptor) -> io::Error {
    loop {
        let error = match listener.accept().await {
            Ok(stream) => {
                match pod.budget().descriptor() {
                    Ok(descriptor) => {
                        let inner = stream;
                        hand_out(worker, pod, Budgeted { inner, descriptor }).await;
                    }
                    Err(over) => refuse(worker, pod, stream, over.into()),
                }
                continue;
            }
            Err(error) => error,
        };
        match error.raw_os_error() {
            // The client is gone already; the next one waits.
            Some(libc::ECONNABORTED | libc::EINTR | libc::EPROTO | libc::EPERM) => {}
            Some(libc::EMFILE | libc::ENFILE) if refuse_waiting(worker, pod, listener, &error) => {}
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                tracing::warn!(%error, reason = %Reason::FdLimit, "cannot accept: connections wait");
                tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
            }
            _ => return error,
        }
    }
}

/// Accepts the connection that waits longest with the spare descriptor, and refuses it. Says
/// whether that was possible.
fn refuse_waiting(
    worker: &Rc<Worker>,
    pod: &Arc<Pod>,
    listener: &Acceptor,
    error: &io::Error,
) -> bool {
    let refused = worker.spare.lend(|| {
        let stream = listener.try_accept()?;
        let failure = Failure::failed(Reason::FdLimit, error);
        refuse(worker, pod, stream, failure);
        io::Result::Ok(())
    });
    matches!(refused, Some(Ok(())))
}

/// Resets a connection that is not served at all, with its line in the log.
fn refuse(worker: &Rc<Worker>, pod: &Arc<Pod>, stream: StdStream, failure: Failure) {
    let ends = stream
        .local_addr()
        .and_then(|local| Ok((local, stream.peer_addr()?)));
    let recorded = worker
        .shared
        .interceptor
        .original_destination(stream.as_fd());
    // Closing it now resets it: nothing of it waits to be sent.
    if let Err(error) = setsockopt(&stream, sockopt::Linger, &RESET) {
        tracing::debug!(%error, "a refused connection cannot be reset");
    }
    drop(stream);
    let Ok((local, peer)) = ends else {
        return; // the client is gone already
    };
    let (local, peer) = (canonical(local), canonical(peer));
    let record = match kind(local, peer, pod.port()) {
        Kind::Outbound => {
            let destination = recorded.map_or(local, |(destination, _)| destination.0);
            outbound::open(worker, pod, peer, destination)
        }
        Kind::Tunnel | Kind::Plaintext => inbound::open(worker, pod, peer, local),
    };
    failure.record(record);
}

async fn hand_out(worker: &Rc<Worker>, pod: &Arc<Pod>, stream: Accepted) {
    let turn = worker.shared.turn.fetch_add(1, Ordering::Relaxed) % worker.inboxes.len();
    if turn == worker.index {
        tokio::task::spawn_local(serve(Rc::clone(worker), Arc::clone(pod), stream));
    } else {
        let _ = worker.inboxes[turn]
            .send(Job::Serve(Arc::clone(pod), stream))
            .await;
    }
}

/// Serves one connection to its end.
pub(super) async fn serve(worker: Rc<Worker>, pod: Arc<Pod>, accepted: Accepted) {
    let Budgeted {
        inner,
        descriptor: _descriptor,
    } = accepted;
    let Ok((stream, local, peer)) = register(inner) else {
        return; // the client is gone already
    };
    let kind = kind(local, peer, pod.port());
    let bounded = match kind {
        Kind::Outbound => buffers::bound_local(&stream),
        // Its streams are bounded by their windows.
        Kind::Tunnel => Ok(()),
        Kind::Plaintext => buffers::bound_unsent(&stream),
    };
    if let Err(error) = bounded {
        tracing::debug!(%error, "the buffers of a connection cannot be bounded");
    }
    match kind {
        Kind::Outbound => outbound::serve(&worker, &pod, stream, peer).await,
        Kind::Tunnel => inbound::serve(&worker, &pod, stream, local, peer).await,
        Kind::Plaintext => plaintext::serve(&worker, &pod, stream, local, peer).await,
    }
}

fn register(stream: StdStream) -> io::Result<(TcpStream, SocketAddr, SocketAddr)> {
    stream.set_nodelay(true)?;
    let local = canonical(stream.local_addr()?);
    let peer = canonical(stream.peer_addr()?);
    Ok((TcpStream::from_std(stream)?, local, peer))
}

/// The kernel programs redirect the pod's connections to its own address and the
/// listener's port; what `sk_lookup` brings from outside keeps the address and
/// port that its client asked for, and never comes from the pod's own address.
fn kind(local: SocketAddr, peer: SocketAddr, listener_port: u16) -> Kind {
    let from_the_pod = peer.ip() == local.ip() || peer.ip().is_loopback();
    if from_the_pod {
        Kind::Outbound
    } else if local.port() == HBONE_PORT && listener_port != HBONE_PORT {
        Kind::Tunnel
    } else {
        Kind::Plaintext
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_connection_comes_from_and_goes_to_tells_what_it_is() {
        let cases = [
            // local, peer, kind; the listener is on 40000
            ("10.0.0.1:40000", "10.0.0.1:33000", Kind::Outbound),
            ("10.0.0.1:40000", "127.0.0.1:33000", Kind::Outbound),
            ("127.0.0.1:40000", "127.0.0.1:33000", Kind::Outbound),
            ("[fd00::1]:40000", "[fd00::1]:33000", Kind::Outbound),
            ("10.0.0.1:15008", "10.0.0.2:33000", Kind::Tunnel),
            ("[fd00::1]:15008", "[fd00::2]:33000", Kind::Tunnel),
            ("10.0.0.1:80", "10.0.0.2:33000", Kind::Plaintext),
            // a stranger who aims at the listener's own port
            ("10.0.0.1:40000", "10.0.0.2:33000", Kind::Plaintext),
        ];
        for (local, peer, expected) in cases {
            let found = kind(local.parse().unwrap(), peer.parse().unwrap(), 40000);
            assert_eq!(found, expected, "{peer} -> {local}");
        }
    }
}
