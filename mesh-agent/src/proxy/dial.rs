//! Connecting onward, from inside the pod's network namespace: to the pod's own
//! application, to another node's agent, or to an address outside the mesh. Each
//! takes the permit that only the policy module can make.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream as StdStream};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;

use super::{Pod, Shared, buffers};
use crate::addr::{ClientAddr, HBONE_PORT, canonical};
use crate::budget::{Budgeted, OverLimit};
use crate::identity::CredentialError;
use crate::netns::{Family, PodSocket, TakeError};
use crate::policy::{InboundPermit, PlainPermit, TunnelPermit};
use crate::relay;
use crate::tls::{self, HandshakeFailure, Secured};

/// How long a TCP connection onward may take to establish. ztunnel's value too
/// (`connection_timeout`).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The same for a tunnel. Less than the pool gives to the whole dial, so that a SYN without an
/// answer differs from a handshake without one. Nothing is lost by it: the kernel sends SYNs after
/// 0, 1, 3, 7 and 15 s (RFC 6298).
const TUNNEL_CONNECT_TIMEOUT: Duration = Duration::from_secs(9);

/// Seconds without data after which the first probe is sent, seconds between
/// probes, and probes without an answer that end the connection: ztunnel's values
/// (`KEEPALIVE_TIME`, `KEEPALIVE_INTERVAL`, `KEEPALIVE_RETRIES`).
const KEEPALIVE_IDLE: u32 = 180;
const KEEPALIVE_INTERVAL: u32 = 180;
const KEEPALIVE_COUNT: u32 = 9;

/// Why a TCP connection onward could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// Nothing listens there, or what does refused.
    #[error("connecting to {to} was refused: nothing listens there")]
    Refused { to: SocketAddr },
    /// No answer came.
    #[error("connecting to {to} took longer than {} s", CONNECT_TIMEOUT.as_secs())]
    TimedOut { to: SocketAddr },
    /// The network has no way there.
    #[error("{to} cannot be reached: {cause}")]
    Unreachable { to: SocketAddr, cause: io::Error },
    /// The application would see the agent as its client.
    #[error(
        "the application at {to} would not see its client {}: the kernel programs could not \
         publish it",
        client.0
    )]
    ClientUnpublished { to: SocketAddr, client: ClientAddr },
    /// The pod may hold no more sockets.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// The agent could not make a socket in the pod.
    #[error("no socket could be opened in the pod's network namespace: {0}")]
    NoSocket(io::Error),
}

/// Why no tunnel could be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum TunnelError {
    /// The TCP connection failed.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// No answer to the SYN came.
    #[error(
        "connecting to {to} took longer than {} s: a NetworkPolicy or a firewall that does not allow \
         TCP port {HBONE_PORT}, by which the mesh reaches the pod, drops it without an answer",
        TUNNEL_CONNECT_TIMEOUT.as_secs()
    )]
    Silent { to: SocketAddr },
    /// The handshake failed, or it proved another identity.
    #[error("the TLS handshake with {to} failed: {failure}")]
    Handshake {
        to: SocketAddr,
        failure: HandshakeFailure,
    },
    /// The pod has no valid certificate.
    #[error(transparent)]
    NoCredential(#[from] CredentialError),
}

/// Connects to the pod's own application at `to`, one of the pod's addresses. The
/// application is shown the `client`'s address as its peer's.
pub(super) async fn application(
    shared: &Shared,
    pod: &Pod,
    _permit: &InboundPermit,
    to: SocketAddr,
    client: ClientAddr,
) -> Result<Budgeted<TcpStream>, DialError> {
    within_pod(shared, pod, to, client).await
}

/// Connects the pod to itself, as it asked by way of a service.
pub(super) async fn own_application(
    shared: &Shared,
    pod: &Pod,
    _permit: &PlainPermit,
    to: SocketAddr,
    client: ClientAddr,
) -> Result<Budgeted<TcpStream>, DialError> {
    within_pod(shared, pod, to, client).await
}

async fn within_pod(
    shared: &Shared,
    pod: &Pod,
    to: SocketAddr,
    client: ClientAddr,
) -> Result<Budgeted<TcpStream>, DialError> {
    let socket = socket(pod, to).await?;
    shared
        .interceptor
        .publish_client(socket.inner.as_fd(), client)
        .map_err(DialError::NoSocket)?;
    buffers::bound_local(&socket.inner).map_err(DialError::NoSocket)?;
    let stream = connect(socket, to, CONNECT_TIMEOUT).await?;
    // Where nothing listens on a port of the ephemeral range, the kernel may choose that very
    // port as the source, and the socket connects to itself (RFC 9293 §3.5, simultaneous open).
    let local = stream.inner.local_addr().map_err(DialError::NoSocket)?;
    if canonical(local) == to {
        return Err(DialError::Refused { to });
    }
    if !shared.interceptor.is_client_published(stream.inner.as_fd()) {
        relay::reset(stream.inner);
        return Err(DialError::ClientUnpublished { to, client });
    }
    Ok(stream)
}

/// Connects to an address outside the mesh.
pub(super) async fn plain(
    shared: &Shared,
    pod: &Pod,
    _permit: &PlainPermit,
    to: SocketAddr,
) -> Result<Budgeted<TcpStream>, DialError> {
    let socket = outward(shared, pod, to).await?;
    buffers::bound_unsent(&socket.inner).map_err(DialError::NoSocket)?;
    let stream = connect(socket, to, CONNECT_TIMEOUT).await?;
    keep_alive(&stream.inner).map_err(DialError::NoSocket)?;
    Ok(stream)
}

/// Connects to the agent in front of the workload at `to` and makes it prove the
/// identity that the permit names.
pub(super) async fn tunnel(
    shared: &Shared,
    pod: &Pod,
    permit: &TunnelPermit,
    to: IpAddr,
) -> Result<Budgeted<Secured<TlsStream<TcpStream>>>, TunnelError> {
    let credential = pod.credential()?;
    let to = SocketAddr::new(to, HBONE_PORT);
    let socket = outward(shared, pod, to).await?;
    let connected = connect(socket, to, TUNNEL_CONNECT_TIMEOUT).await;
    let Budgeted { inner, descriptor } = connected.map_err(|error| match error {
        DialError::TimedOut { to } => TunnelError::Silent { to },
        error => TunnelError::Dial(error),
    })?;
    let secured = tls::connect(&credential, permit.expected(), inner).await;
    let inner = secured.map_err(|failure| TunnelError::Handshake { to, failure })?;
    Ok(Budgeted { inner, descriptor })
}

/// Has the kernel find out when the other end of a plain connection is gone: the
/// application's own keepalives end at the agent.
///
/// # Errors
/// Those of `setsockopt(2)`.
pub(super) fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL)?;
    setsockopt(stream, sockopt::TcpKeepCount, &KEEPALIVE_COUNT)?;
    Ok(())
}

/// A socket that the kernel programs let out of the pod.
async fn outward(shared: &Shared, pod: &Pod, to: SocketAddr) -> Result<PodSocket, DialError> {
    let socket = socket(pod, to).await?;
    let claimed = shared.interceptor.claim_socket(socket.inner.as_fd());
    claimed.map_err(DialError::NoSocket)?;
    Ok(socket)
}

/// A socket in the pod's namespace, of the family of `to`.
async fn socket(pod: &Pod, to: SocketAddr) -> Result<PodSocket, DialError> {
    let taken = pod.sockets.take(Family::of(to)).await;
    taken.map_err(|error| match error {
        TakeError::OverLimit(over) => DialError::OverLimit(over),
        TakeError::Io(error) => DialError::NoSocket(error),
    })
}

async fn connect(
    socket: PodSocket,
    to: SocketAddr,
    limit: Duration,
) -> Result<Budgeted<TcpStream>, DialError> {
    let Budgeted { inner, descriptor } = socket.map(StdStream::from);
    let connecting = TcpSocket::from_std_stream(inner).connect(to);
    match tokio::time::timeout(limit, connecting).await {
        Err(_) => Err(DialError::TimedOut { to }),
        Ok(Err(error)) => Err(match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => {
                DialError::Refused { to }
            }
            io::ErrorKind::TimedOut => DialError::TimedOut { to },
            _ => DialError::Unreachable { to, cause: error },
        }),
        Ok(Ok(inner)) => {
            inner.set_nodelay(true).map_err(DialError::NoSocket)?;
            Ok(Budgeted { inner, descriptor })
        }
    }
}
