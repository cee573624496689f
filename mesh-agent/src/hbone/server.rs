//! The end of a tunnel that accepts connections. The inbound proxy serves one
//! for each TLS connection to port 15008 and decides about every [`Incoming`].

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use super::outflow::{Side, Watched};
use super::slots::{Lease, Slots};
use super::stream::Piece;
use super::window::StreamWindow;
use super::{
    ConnectRequest, Malformed, StreamError, TunnelError, TunnelSettings, TunnelStream, keepalive,
};

/// Streams that were reset by the client before we took them from the queue;
/// more end the tunnel (the "rapid reset" attack, CVE-2023-44487).
const MAX_RESET_BEFORE_ACCEPT: usize = 64;
/// Streams that we reset for the client's errors over a tunnel's life; more
/// end the tunnel.
const MAX_CLIENT_ERRORS: usize = 256;
/// Streams that we have reset and still remember, to ignore late frames.
const MAX_REMEMBERED_RESETS: usize = 64;

/// The accepting end of a tunnel; dropping it cuts the tunnel.
pub struct TunnelServer<IO> {
    connection: h2::server::Connection<Watched<IO>, Piece>,
    keepalive: Pin<Box<dyn Future<Output = TunnelError> + Send>>,
    idle: Pin<Box<Sleep>>,
    idle_armed: bool,
    /// When it drains, if not earlier.
    due: Option<Pin<Box<Sleep>>>,
    slots: Arc<Slots>,
    window: StreamWindow,
    settings: TunnelSettings,
    ended: bool,
}

/// A connection that the peer asks for. Dropping it resets the stream.
#[derive(Debug)]
pub struct Incoming {
    /// What is asked for, or why it cannot be understood (answer with
    /// [`Refusal::BadRequest`]).
    pub request: Result<ConnectRequest, Malformed>,
    respond: h2::server::SendResponse<Piece>,
    body: h2::RecvStream,
    lease: Arc<Lease>,
}

/// The answers other than 200, as ztunnel gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 400: malformed, or aimed at another address.
    BadRequest,
    /// 401: forbidden by policy.
    Unauthorized,
    /// 503: the application did not accept.
    Unavailable,
}

/// Starts HTTP/2 on `io` (TLS is already done). Returns when the client's
/// preface has come, or fails after `settings.handshake_timeout`.
pub async fn serve<IO>(io: IO, settings: &TunnelSettings) -> Result<TunnelServer<IO>, TunnelError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_frame_size(settings.max_frame)
        .max_header_list_size(settings.max_header_list)
        .max_send_buffer_size(settings.send_buffer)
        .max_concurrent_streams(settings.max_streams)
        .max_concurrent_reset_streams(MAX_REMEMBERED_RESETS)
        .max_local_error_reset_streams(Some(MAX_CLIENT_ERRORS))
        .max_pending_accept_reset_streams(MAX_RESET_BEFORE_ACCEPT);
    let slots = Slots::new(Arc::new(Notify::new()));
    let io = Watched::new(io, Side::Server, Arc::clone(slots.outflow()));
    let handshake = builder.handshake::<_, Piece>(io);
    let mut connection = tokio::time::timeout(settings.handshake_timeout, handshake)
        .await
        .map_err(|_| TunnelError::HandshakeTimeout(settings.handshake_timeout))??;
    let keepalive: Pin<Box<dyn Future<Output = TunnelError> + Send>> = match connection.ping_pong()
    {
        Some(pings) => Box::pin(keepalive::watch(pings, settings.clone())),
        None => Box::pin(std::future::pending()),
    };
    Ok(TunnelServer {
        connection,
        keepalive,
        idle: Box::pin(tokio::time::sleep(settings.serve_idle)),
        idle_armed: true,
        due: None,
        window: StreamWindow::new(Arc::clone(&slots), settings),
        slots,
        settings: settings.clone(),
        ended: false,
    })
}

impl<IO> TunnelServer<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    /// The next connection asked for; `None` when the tunnel has ended. This
    /// also carries the data of all streams, so it has to be awaited always;
    /// it may be dropped and called again at any time.
    pub async fn accept(&mut self) -> Option<Result<Incoming, TunnelError>> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// Ends the tunnel gracefully: the client is told to open no more streams
    /// (GOAWAY), those that are open go on, then [`accept`](Self::accept)
    /// returns `None`. Dropping the server instead cuts them.
    pub fn drain(&mut self) {
        self.connection.graceful_shutdown();
    }

    /// Drains the tunnel at that time, unless an earlier one was set.
    pub fn drain_at(&mut self, time: Instant) {
        match &mut self.due {
            Some(due) if due.deadline() <= time => {}
            Some(due) => due.as_mut().reset(time),
            None => self.due = Some(Box::pin(tokio::time::sleep_until(time))),
        }
    }

    /// Streams open now, counting those not yet answered.
    pub fn streams_in_use(&self) -> usize {
        self.slots.used()
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Incoming, TunnelError>>> {
        let (window, connection) = (&mut self.window, &mut self.connection);
        window.adjust(|size| connection.set_initial_window_size(size));
        while !self.ended {
            let asked = pin!(self.connection.accept()).poll(cx);
            match asked {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    if let Some(incoming) = self.admit(request, respond) {
                        return Poll::Ready(Some(Ok(incoming)));
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    self.ended = true;
                    if error.is_io() && self.slots.used() == 0 {
                        // The client closed a tunnel that nobody uses; whether
                        // our last frame still reached it is all the same.
                        break;
                    }
                    return Poll::Ready(Some(Err(error.into())));
                }
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => {
                    if let Poll::Ready(dead) = self.keepalive.as_mut().poll(cx) {
                        self.ended = true;
                        return Poll::Ready(Some(Err(dead)));
                    }
                    let (idle, due) = (self.drain_if_idle(cx), self.drain_if_due(cx));
                    if !idle && !due {
                        return Poll::Pending;
                    }
                }
            }
        }
        Poll::Ready(None)
    }

    /// A client that opens and resets frees its place in HTTP/2's own count at
    /// once, while the connection it asked for may still be in the making. So
    /// what is in the making is counted here too.
    fn admit(
        &mut self,
        request: http::Request<h2::RecvStream>,
        mut respond: h2::server::SendResponse<Piece>,
    ) -> Option<Incoming> {
        let Some(lease) = self.slots.lease(2 * self.settings.max_streams as usize) else {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            return None;
        };
        let (head, body) = request.into_parts();
        Some(Incoming {
            request: ConnectRequest::from_http(&head),
            respond,
            body,
            lease,
        })
    }

    /// As [`Self::drain_if_idle`], at the time that was set.
    fn drain_if_due(&mut self, cx: &mut Context<'_>) -> bool {
        let due = self.due.as_mut();
        if due.is_none_or(|due| due.as_mut().poll(cx).is_pending()) {
            return false;
        }
        self.due = None;
        self.drain();
        true
    }

    /// True when it has just started the drain, so the connection has to be
    /// polled again.
    fn drain_if_idle(&mut self, cx: &mut Context<'_>) -> bool {
        if self.connection.has_streams() {
            self.idle_armed = false;
            return false;
        }
        if !self.idle_armed {
            self.idle_armed = true;
            let end = Instant::now() + self.settings.serve_idle;
            self.idle.as_mut().reset(end);
        }
        if self.idle.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.idle_armed = false;
        self.drain();
        true
    }
}

impl Incoming {
    /// Answers 200: the application has accepted.
    pub fn accept(mut self) -> Result<TunnelStream, StreamError> {
        let answer = answer(http::StatusCode::OK);
        let write = match self.respond.send_response(answer, false) {
            Ok(write) => write,
            Err(error) => return Err(self.failure(error)),
        };
        Ok(TunnelStream::new(self.body, write, self.lease))
    }

    /// Answers that the connection is not to be.
    pub fn refuse(mut self, refusal: Refusal) {
        // It fails only when the stream has ended already: nobody is left to
        // be told.
        let _ = self.respond.send_response(answer(refusal.status()), true);
    }

    /// Ready when the peer no longer wants the connection, so that nobody goes
    /// on connecting for it.
    pub async fn cancelled(&mut self) {
        let _ = poll_fn(|cx| self.respond.poll_reset(cx)).await;
    }
}

impl Incoming {
    /// Answering fails with "unexpected frame type" alone; what happened to the
    /// stream has to be asked for.
    fn failure(&mut self, error: h2::Error) -> StreamError {
        let mut cx = Context::from_waker(Waker::noop());
        match self.respond.poll_reset(&mut cx) {
            Poll::Ready(Ok(reason)) => StreamError::Reset {
                code: reason.into(),
            },
            Poll::Ready(Err(cause)) => cause.into(),
            Poll::Pending => error.into(),
        }
    }
}

impl Refusal {
    fn status(self) -> http::StatusCode {
        match self {
            Self::BadRequest => http::StatusCode::BAD_REQUEST,
            Self::Unauthorized => http::StatusCode::UNAUTHORIZED,
            Self::Unavailable => http::StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

fn answer(status: http::StatusCode) -> http::Response<()> {
    let mut answer = http::Response::new(());
    *answer.status_mut() = status;
    answer
}
