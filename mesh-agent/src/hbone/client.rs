//! The end of a tunnel that opens connections. The pool makes one for each
//! destination; whoever makes one must also run its driver.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use super::outflow::{Side, Watched};
use super::slots::{Lease, Slots};
use super::stream::Piece;
use super::window::StreamWindow;
use super::{ConnectRequest, TunnelError, TunnelSettings, TunnelStream, keepalive};
use crate::tls::Session;

/// The opening end of a tunnel. When it and all its streams are dropped, its
/// driver ends and the connection closes.
#[derive(Debug)]
pub struct TunnelClient {
    sender: h2::client::SendRequest<Piece>,
    slots: Arc<Slots>,
    settings: TunnelSettings,
    session: Option<Arc<Session>>,
}

/// Why the peer's application was not reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The peer answered, but not with 200.
    #[error("the peer refused the connection with status {status} ({})", meaning(*.status))]
    Refused {
        /// The HTTP status: 400 malformed or aimed elsewhere, 401 forbidden by
        /// policy, 503 the application did not accept.
        status: u16,
    },
    /// The peer reset the stream instead of answering.
    #[error("the peer reset the stream before it answered (HTTP/2 error code {code})")]
    Reset {
        /// The error code in RST_STREAM (RFC 9113 §7).
        code: u32,
    },
    /// The tunnel ended before the answer.
    #[error("the tunnel was lost before the peer answered: {detail}")]
    TunnelLost {
        /// The peer certainly has not acted on the request.
        unprocessed: bool,
        /// What the tunnel failed with.
        detail: String,
    },
    /// The peer did not answer in time.
    #[error("the peer did not answer within {0:?}: its application may be unreachable")]
    Timeout(std::time::Duration),
    /// The tunnel carries as many streams as either end allows.
    #[error("the tunnel already carries all {0} streams it may")]
    Exhausted(usize),
}

fn meaning(status: u16) -> &'static str {
    match status {
        400 => "malformed, or not an address of the destination",
        401 | 403 => "forbidden by the destination's policy",
        431 => "request headers too large",
        502..=504 => "the destination application did not accept",
        _ => "unexpected",
    }
}

impl TunnelClient {
    /// Starts HTTP/2 on `io` (TLS is already done). The future that comes with
    /// the client carries the tunnel and must be run until it ends; it ends
    /// with an error when the tunnel is lost.
    pub async fn handshake<IO>(
        io: IO,
        settings: &TunnelSettings,
    ) -> Result<
        (
            Self,
            impl Future<Output = Result<(), TunnelError>> + use<IO>,
        ),
        TunnelError,
    >
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        Self::handshake_notifying(io, settings, Arc::new(Notify::new())).await
    }

    /// [`handshake`](Self::handshake), telling `freed` whenever a stream ends.
    pub(super) async fn handshake_notifying<IO>(
        io: IO,
        settings: &TunnelSettings,
        freed: Arc<Notify>,
    ) -> Result<
        (
            Self,
            impl Future<Output = Result<(), TunnelError>> + use<IO>,
        ),
        TunnelError,
    >
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(settings.stream_window)
            .initial_connection_window_size(settings.connection_window)
            .max_frame_size(settings.max_frame)
            .max_header_list_size(settings.max_header_list)
            .max_send_buffer_size(settings.send_buffer)
            .initial_max_send_streams(settings.max_streams as usize);
        let slots = Slots::new(freed);
        let io = Watched::new(io, Side::Client, Arc::clone(slots.outflow()));
        let handshake = builder.handshake::<_, Piece>(io);
        let (sender, mut connection) = tokio::time::timeout(settings.handshake_timeout, handshake)
            .await
            .map_err(|_| TunnelError::HandshakeTimeout(settings.handshake_timeout))??;
        let pings = connection.ping_pong();
        let window = StreamWindow::new(Arc::clone(&slots), settings);
        let driver = drive(connection, pings, window, settings.clone());
        let client = Self {
            sender,
            slots,
            settings: settings.clone(),
            session: None,
        };
        Ok((client, driver))
    }

    /// Asks the peer to connect; returns when its application has accepted.
    pub async fn open(&self, request: &ConnectRequest) -> Result<TunnelStream, OpenError> {
        let lease = self
            .lease()
            .ok_or_else(|| OpenError::Exhausted(self.limit()))?;
        self.open_leased(request, lease).await
    }

    /// A place for one more stream, if the tunnel is alive and has one.
    pub(super) fn lease(&self) -> Option<Arc<Lease>> {
        if self.is_alive() {
            self.slots.lease(self.limit())
        } else {
            None
        }
    }

    pub(super) async fn open_leased(
        &self,
        request: &ConnectRequest,
        lease: Arc<Lease>,
    ) -> Result<TunnelStream, OpenError> {
        let limit = self.settings.open_timeout;
        tokio::time::timeout(limit, self.ask(request, lease))
            .await
            .map_err(|_| OpenError::Timeout(limit))?
    }

    async fn ask(
        &self,
        request: &ConnectRequest,
        lease: Arc<Lease>,
    ) -> Result<TunnelStream, OpenError> {
        let mut sender = self.sender.clone();
        poll_fn(|cx| sender.poll_ready(cx))
            .await
            .map_err(never_sent)?;
        let (answer, write) = sender
            .send_request(request.to_http(), false)
            .map_err(never_sent)?;
        let answer = answer.await.map_err(unanswered)?;
        match answer.status().as_u16() {
            200 => {
                let stream = TunnelStream::new(answer.into_body(), write, lease);
                Ok(stream.secured_by(self.session.clone()))
            }
            status => Err(OpenError::Refused { status }),
        }
    }

    /// The handshake that secured the tunnel.
    pub(super) fn session(&self) -> Option<&Session> {
        self.session.as_deref()
    }

    /// Notes what the TLS handshake under the tunnel agreed on, for its streams to tell.
    pub(super) fn secured_by(self, session: Option<Arc<Session>>) -> Self {
        Self { session, ..self }
    }

    /// Streams open now, counting those that wait for their answer.
    pub fn streams_in_use(&self) -> usize {
        self.slots.used()
    }

    /// Whether one more stream would find room in the peer's connection window.
    pub(super) fn has_room(&self) -> bool {
        self.slots.outflow().has_room()
    }

    /// Whether the peer's certificate is valid still. With one that has expired, the tunnel
    /// carries what it carries and nothing new.
    pub(super) fn is_current(&self, now: SystemTime) -> bool {
        self.session()
            .is_none_or(|session| !session.has_expired(now))
    }

    /// Whether another stream may be opened now.
    pub fn is_usable(&self) -> bool {
        self.is_alive() && self.streams_in_use() < self.limit()
    }

    /// Whether the tunnel stands and the peer takes new streams: not after its
    /// GOAWAY, nor after a failure.
    pub fn is_alive(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        // A clone of its own, so that this asks about the tunnel and not about
        // a request that someone else is waiting to send.
        let mut sender = self.sender.clone();
        !matches!(sender.poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    /// Since when the tunnel has had no stream; `None` while it has one.
    pub(super) fn idle_since(&self) -> Option<tokio::time::Instant> {
        self.slots.idle_since()
    }

    fn limit(&self) -> usize {
        let ours = self.settings.max_streams as usize;
        ours.min(self.sender.current_max_send_streams())
    }
}

async fn drive<IO>(
    mut connection: h2::client::Connection<IO, Piece>,
    pings: Option<h2::PingPong>,
    mut window: StreamWindow,
    settings: TunnelSettings,
) -> Result<(), TunnelError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let keepalive = async {
        match pings {
            Some(pings) => keepalive::watch(pings, settings).await,
            None => std::future::pending().await,
        }
    };
    let connection = poll_fn(|cx| {
        window.adjust(|size| connection.set_initial_window_size(size));
        pin!(&mut connection).poll(cx)
    });
    let (connection, keepalive) = (pin!(connection), pin!(keepalive));
    tokio::select! {
        biased;
        end = connection => end.map_err(TunnelError::from),
        dead = keepalive => Err(dead),
    }
}

fn never_sent(error: h2::Error) -> OpenError {
    OpenError::TunnelLost {
        unprocessed: true,
        detail: error.to_string(),
    }
}

fn unanswered(error: h2::Error) -> OpenError {
    let reason = error.reason();
    match reason {
        // RFC 9113 §8.7: neither a refused stream nor one above the last
        // stream of a graceful GOAWAY has been processed.
        Some(h2::Reason::REFUSED_STREAM) if error.is_reset() => never_sent(error),
        Some(h2::Reason::NO_ERROR) if error.is_go_away() => never_sent(error),
        Some(reason) if error.is_reset() => OpenError::Reset {
            code: reason.into(),
        },
        _ => OpenError::TunnelLost {
            unprocessed: false,
            detail: error.to_string(),
        },
    }
}
