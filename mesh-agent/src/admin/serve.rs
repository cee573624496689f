//! The accept loop of the administrative interfaces, with its bounds: a client that is
//! slow, silent or one of too many costs the agent little, and the others a short wait.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::routes::{Answer, broken};

/// Connections served at a time; more wait in the listener's backlog.
pub(super) const MAX_CONNECTIONS: usize = 64;
/// Time for a request's head to arrive whole.
pub(super) const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a whole connection, however many requests it makes: Prometheus and the
/// kubelet simply connect again.
pub(super) const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of a request's head.
const MAX_HEAD: usize = 16 << 10;
/// Wait after a failed accept: out of file descriptors, for which there is no event.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// What connections are accepted from.
pub(super) trait Listener {
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// The next connection, or `None` for one that was turned away.
    fn accept(&self) -> impl Future<Output = io::Result<Option<Self::Io>>> + Send;
}

impl Listener for TcpListener {
    type Io = TcpStream;

    async fn accept(&self) -> io::Result<Option<TcpStream>> {
        TcpListener::accept(self)
            .await
            .map(|(stream, _)| Some(stream))
    }
}

/// What answers a request; it may block.
pub(super) trait Answerer: Fn(&Head) -> Answer + Clone + Send + 'static {}

impl<F: Fn(&Head) -> Answer + Clone + Send + 'static> Answerer for F {}

/// A request's head.
pub(super) type Head = http::request::Parts;

/// Serves until `stop` completes, then drops what is open.
pub(super) async fn serve<L: Listener>(
    listener: L,
    answer: impl Answerer,
    stop: impl Future<Output = ()>,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Aborts its tasks when dropped, so that nothing outlives the server.
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let next = async {
            // Closed by nobody, so this only ever waits.
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        tokio::select! {
            () = &mut stop => return,
            (slot, accepted) = next => match accepted {
                Ok(Some(io)) => {
                    let connection = connection(io, answer.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(slot);
                    });
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "the admin interface cannot accept a connection");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection<I>(io: I, answer: impl Answerer)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| respond(answer.clone(), request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(io), service);
    match tokio::time::timeout(CONNECTION_TIMEOUT, served).await {
        Ok(Ok(())) => {}
        // A client's fault, and nothing that its administrator would have to know.
        Ok(Err(error)) => tracing::debug!(%error, "an admin connection ended badly"),
        Err(_) => tracing::debug!("an admin connection was open for too long"),
    }
}

async fn respond(
    answer: impl Answerer,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    // The view may block, on the kernel's maps for one.
    let (head, _) = request.into_parts();
    let answered = tokio::task::spawn_blocking(move || answer(&head));
    Ok(answered.await.unwrap_or_else(|_| broken()))
}
