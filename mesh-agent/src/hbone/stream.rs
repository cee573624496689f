//! One connection inside a tunnel, the same for both ends of the tunnel. The
//! relay reads and writes it; flow control, half-close and reset are those of
//! the HTTP/2 stream underneath.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::outflow::Allowance;
use super::slots::Lease;
use crate::budget::Buffered;
use crate::tls::Session;

/// Pieces of one stream that may wait for the socket at once. Bytes are bounded
/// by the send buffer; this bounds what each piece costs besides its bytes, or
/// a quarter of a million one-byte writes could wait in one buffer.
const PIECES_IN_FLIGHT: usize = 64;

/// An open connection inside a tunnel. Dropping it unfinished resets it.
#[derive(Debug)]
pub struct TunnelStream {
    read: TunnelRead,
    write: TunnelWrite,
    session: Option<Arc<Session>>,
}

/// The receiving half of a [`TunnelStream`].
#[derive(Debug)]
pub struct TunnelRead {
    inner: h2::RecvStream,
    /// Bytes read and not released.
    held: usize,
    /// Bytes released since the window was last asked to grow.
    run: u64,
    lease: Arc<Lease>,
}

/// The sending half of a [`TunnelStream`]. Dropping it before
/// [`finish`](Self::finish) resets the stream.
#[derive(Debug)]
pub struct TunnelWrite {
    inner: h2::SendStream<Piece>,
    pieces: Arc<Semaphore>,
    allowance: Allowance,
    ended: bool,
    _lease: Arc<Lease>,
}

/// Permission to send up to [`len`](Self::len) bytes at once.
#[derive(Debug)]
pub struct Credit {
    len: usize,
    permit: OwnedSemaphorePermit,
}

/// Why a stream ended before both sides had finished it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer (or HTTP/2 on its behalf) reset this stream; the code is that
    /// of RFC 9113 §7.
    #[error("the peer reset the stream (HTTP/2 error code {code})")]
    Reset {
        /// The error code in RST_STREAM.
        code: u32,
    },
    /// The tunnel under the stream is gone.
    #[error("the tunnel was lost: {detail}")]
    TunnelLost {
        /// What the tunnel failed with.
        detail: String,
    },
}

/// A piece of data on its way to the socket, with its place in the count.
#[derive(Debug)]
pub(super) struct Piece {
    data: Bytes,
    _permit: Option<OwnedSemaphorePermit>,
    _account: Option<Buffered>,
}

impl TunnelStream {
    pub(super) fn new(
        read: h2::RecvStream,
        write: h2::SendStream<Piece>,
        lease: Arc<Lease>,
    ) -> Self {
        Self {
            read: TunnelRead {
                inner: read,
                held: 0,
                run: 0,
                lease: lease.clone(),
            },
            write: TunnelWrite {
                allowance: lease.outflow().stream(write.stream_id().as_u32()),
                inner: write,
                pieces: Arc::new(Semaphore::new(PIECES_IN_FLIGHT)),
                ended: false,
                _lease: lease,
            },
            session: None,
        }
    }

    pub(super) fn secured_by(self, session: Option<Arc<Session>>) -> Self {
        Self { session, ..self }
    }

    /// What the TLS handshake under the stream's tunnel agreed on, where whoever
    /// opened the tunnel has said so.
    pub fn session(&self) -> Option<&Arc<Session>> {
        self.session.as_ref()
    }

    /// The two halves. The stream lives until both are dropped.
    pub fn split(self) -> (TunnelRead, TunnelWrite) {
        (self.read, self.write)
    }
}

impl TunnelRead {
    /// The next data, `None` when the peer has finished. What was read counts
    /// against the peer's window until [`release`](Self::release).
    pub async fn read(&mut self) -> Option<Result<Bytes, StreamError>> {
        poll_fn(|cx| self.poll_read(cx)).await
    }

    /// [`read`](Self::read) for hand-written futures.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamError>>> {
        loop {
            let data = match std::task::ready!(self.inner.poll_data(cx)) {
                // HTTP/2 allows empty frames; to a byte stream they are nothing.
                Some(Ok(data)) if data.is_empty() => continue,
                Some(Ok(data)) => {
                    self.held += data.len();
                    self.lease.flow().received(data.len());
                    Some(Ok(data))
                }
                Some(Err(error)) => Some(Err(error.into())),
                None => None,
            };
            return Poll::Ready(data);
        }
    }

    /// Gives the peer `len` bytes of window back, once they were passed on.
    pub fn release(&mut self, len: usize) {
        // It fails only for bytes that were never received, or after the
        // stream was reset, when the window no longer matters.
        let _ = self.inner.flow_control().release_capacity(len);
        let len = len.min(self.held);
        self.held -= len;
        self.lease.flow().released(len, &mut self.run);
    }
}

impl Drop for TunnelRead {
    fn drop(&mut self) {
        self.lease.flow().abandoned(self.held);
    }
}

impl TunnelWrite {
    /// Waits until something may be sent, at most `want` bytes of it. Ask only
    /// with data at hand: what is granted here is withheld from other streams.
    pub async fn ready(&mut self, want: usize) -> Result<Credit, StreamError> {
        self.ready_with(want, 1).await
    }

    /// [`ready`](Self::ready), once no other piece of the stream waits to be sent.
    pub async fn ready_alone(&mut self, want: usize) -> Result<Credit, StreamError> {
        self.ready_with(want, PIECES_IN_FLIGHT as u32).await
    }

    async fn ready_with(&mut self, want: usize, places: u32) -> Result<Credit, StreamError> {
        let permit = match self.pieces.clone().try_acquire_many_owned(places) {
            Ok(permit) => permit,
            Err(_) => self.piece_permit(places).await?,
        };
        let len = poll_fn(|cx| self.poll_capacity(cx, want)).await?;
        Ok(Credit { len, permit })
    }

    /// Sends `data`, which must not be longer than the credit.
    pub fn send(&mut self, credit: Credit, data: Bytes) -> Result<(), StreamError> {
        self.send_piece(credit, data, None)
    }

    /// [`send`](Self::send), with the account in which `data` is until it has left.
    pub fn send_accounted(
        &mut self,
        credit: Credit,
        data: Bytes,
        account: Buffered,
    ) -> Result<(), StreamError> {
        self.send_piece(credit, data, Some(account))
    }

    fn send_piece(
        &mut self,
        credit: Credit,
        data: Bytes,
        account: Option<Buffered>,
    ) -> Result<(), StreamError> {
        debug_assert!(data.len() <= credit.len, "sent more than was granted");
        let short = data.len() < credit.len;
        self.allowance.handed_over(data.len());
        let piece = Piece {
            data,
            _permit: Some(credit.permit),
            _account: account,
        };
        let sent = self.inner.send_data(piece, false);
        if short {
            self.inner.reserve_capacity(0);
        }
        sent.map_err(|error| self.failure(error))
    }

    /// Returns a credit unused.
    pub fn give_back(&mut self, credit: Credit) {
        drop(credit);
        self.inner.reserve_capacity(0);
    }

    /// Sends all of `data` as the window allows.
    pub async fn write(&mut self, mut data: Bytes) -> Result<(), StreamError> {
        while data.has_remaining() {
            let credit = self.ready(data.len()).await?;
            let piece = data.split_to(credit.len().min(data.len()));
            self.send(credit, piece)?;
        }
        Ok(())
    }

    /// Says that nothing more will be sent (END_STREAM), after what is queued.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        self.ended = true;
        let end = Piece {
            data: Bytes::new(),
            _permit: None,
            _account: None,
        };
        self.inner
            .send_data(end, true)
            .map_err(|error| self.failure(error))
    }

    /// Resets the stream both ways (RST_STREAM with CANCEL) and drops what is
    /// queued. Has no effect on a stream that has ended.
    pub fn reset(&mut self) {
        self.ended = true;
        self.inner.send_reset(h2::Reason::CANCEL);
    }

    /// Ready when the peer has reset the stream or the tunnel is lost.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        self.inner.poll_reset(cx).map(|outcome| match outcome {
            Ok(reason) => StreamError::Reset {
                code: reason.into(),
            },
            Err(error) => error.into(),
        })
    }

    async fn piece_permit(&mut self, places: u32) -> Result<OwnedSemaphorePermit, StreamError> {
        let pieces = self.pieces.clone();
        tokio::select! {
            biased;
            error = poll_fn(|cx| self.poll_reset(cx)) => Err(error),
            permit = pieces.acquire_many_owned(places) => permit.map_err(|_| StreamError::TunnelLost {
                detail: "the stream's send queue is closed".to_owned(),
            }),
        }
    }

    fn poll_capacity(
        &mut self,
        cx: &mut Context<'_>,
        want: usize,
    ) -> Poll<Result<usize, StreamError>> {
        if let Poll::Ready(error) = self.poll_reset(cx) {
            return Poll::Ready(Err(error));
        }
        let Poll::Ready(want) = self.allowance.poll(cx, want) else {
            // What HTTP/2 still holds ready for the stream is for the others.
            self.inner.reserve_capacity(0);
            return Poll::Pending;
        };
        self.inner.reserve_capacity(want);
        // `poll_capacity` tells only of an increase; what is there already has
        // to be asked for.
        let there = self.inner.capacity();
        if there > 0 {
            return Poll::Ready(Ok(there.min(want)));
        }
        match std::task::ready!(self.inner.poll_capacity(cx)) {
            Some(Ok(len)) => Poll::Ready(Ok(len.min(want))),
            Some(Err(error)) => Poll::Ready(Err(error.into())),
            None => Poll::Ready(Err(StreamError::TunnelLost {
                detail: "the stream is closed for sending".to_owned(),
            })),
        }
    }

    /// Sending fails with "inactive stream" alone; why it is inactive has to be
    /// asked for.
    fn failure(&mut self, error: h2::Error) -> StreamError {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match self.poll_reset(&mut cx) {
            Poll::Ready(cause) => cause,
            Poll::Pending => error.into(),
        }
    }
}

impl Drop for TunnelWrite {
    fn drop(&mut self) {
        if !self.ended {
            self.reset();
        }
    }
}

impl Credit {
    /// Bytes that may be sent; never zero.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a credit is never empty by construction"
    )]
    pub fn len(&self) -> usize {
        self.len
    }
}

impl From<h2::Error> for StreamError {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            Some(reason) if error.is_reset() => Self::Reset {
                code: reason.into(),
            },
            _ => Self::TunnelLost {
                detail: error.to_string(),
            },
        }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
    }
}
