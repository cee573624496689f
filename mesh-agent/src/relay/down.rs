//! From the tunnel to the application.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use nix::sys::socket::{Shutdown, shutdown};
use std::os::fd::AsRawFd;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::{Meter, RelayCause, app_failure};
use crate::budget::Buffered;
use crate::hbone::TunnelRead;

/// Pieces smaller than this are gathered while the application does not read:
/// each would otherwise keep the whole buffer alive that it came in.
const SMALL: usize = 4 << 10;
/// A gathered piece is closed at this size, so that it need not be moved often.
const GATHERED: usize = 64 << 10;
/// Near the pod's limit, what waits is copied into a buffer of its exact size, if it is no more
/// than this: a piece otherwise keeps the whole buffer alive that it came in.
const COMPACTED: usize = 256 << 10;
/// Pieces in one write.
const SLICES: usize = 16;

/// The direction from the tunnel to the application. What the peer sends is
/// taken at once; its window is given back only as the application reads, so
/// never more waits here than the window.
pub(super) struct Down<'a> {
    app: &'a TcpStream,
    tunnel: &'a mut TunnelRead,
    meter: &'a Meter,
    waiting: Waiting,
    account: Buffered,
    peer_finished: bool,
}

impl<'a> Down<'a> {
    pub(super) fn new(
        app: &'a TcpStream,
        tunnel: &'a mut TunnelRead,
        meter: &'a Meter,
        account: Buffered,
    ) -> Self {
        Self {
            app,
            tunnel,
            meter,
            waiting: Waiting::default(),
            account,
            peer_finished: false,
        }
    }

    /// Ready when the peer has finished and the application was told, or when
    /// either side has failed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayCause>> {
        loop {
            if let Err(cause) = self.take_in(cx) {
                // What came before the reset, as far as it goes without
                // waiting: TCP would have delivered it.
                let _ = self.write_once();
                return Poll::Ready(Err(cause));
            }
            if self.waiting.is_empty() {
                self.settle()?;
                return match self.peer_finished {
                    true => Poll::Ready(self.finish()),
                    false => Poll::Pending,
                };
            }
            match self.app.poll_write_ready(cx) {
                Poll::Ready(ready) => ready.map_err(app_failure)?,
                Poll::Pending => {
                    self.settle()?;
                    return Poll::Pending;
                }
            }
            match self.write_once() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(app_failure(error))),
            }
        }
    }

    /// Accounts what waits for the application. Nothing does while it reads as fast as the
    /// peer sends.
    fn settle(&mut self) -> Result<(), RelayCause> {
        self.account
            .set(self.waiting.len)
            .map_err(RelayCause::OverLimit)?;
        if !self.waiting.is_compact
            && self.waiting.len > 0
            && self.waiting.len <= COMPACTED
            && self.account.is_pressed()
        {
            self.waiting.compact();
        }
        Ok(())
    }

    /// Takes everything that the tunnel has for us.
    fn take_in(&mut self, cx: &mut Context<'_>) -> Result<(), RelayCause> {
        while !self.peer_finished {
            match self.tunnel.poll_read(cx) {
                Poll::Ready(Some(Ok(data))) => self.waiting.push(data),
                Poll::Ready(Some(Err(error))) => return Err(error.into()),
                Poll::Ready(None) => self.peer_finished = true,
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    fn write_once(&mut self) -> io::Result<()> {
        let written = self.waiting.write_to(self.app)?;
        self.tunnel.release(written);
        self.meter.add_received(written as u64);
        Ok(())
    }

    fn finish(&self) -> Result<(), RelayCause> {
        finish(self.app).map_err(app_failure)
    }
}

/// Tells the reader of `socket` that nothing more will come.
pub(super) fn finish(socket: &TcpStream) -> io::Result<()> {
    Ok(shutdown(socket.as_raw_fd(), Shutdown::Write)?)
}

/// Data on its way to the application, in order.
#[derive(Debug, Default)]
struct Waiting {
    pieces: VecDeque<Bytes>,
    /// Small pieces, gathered; they come after all of `pieces`.
    gathered: BytesMut,
    /// Bytes of both.
    len: usize,
    /// Whether all of it is in buffers of its own size.
    is_compact: bool,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.gathered.is_empty()
    }

    fn push(&mut self, data: Bytes) {
        self.len += data.len();
        self.is_compact = false;
        // The first piece is mostly written at once, so it is never copied.
        if data.len() < SMALL && !self.is_empty() {
            self.gathered.extend_from_slice(&data);
            if self.gathered.len() >= GATHERED {
                self.close_gathered();
            }
        } else {
            self.close_gathered();
            self.pieces.push_back(data);
        }
    }

    /// Copies everything into one buffer of its exact size.
    fn compact(&mut self) {
        self.close_gathered();
        let mut all = Vec::with_capacity(self.len);
        for piece in self.pieces.drain(..) {
            all.extend_from_slice(&piece);
        }
        self.pieces.push_back(all.into());
        self.is_compact = true;
    }

    fn close_gathered(&mut self) {
        if !self.gathered.is_empty() {
            self.pieces.push_back(self.gathered.split().freeze());
        }
    }

    /// Writes what the socket takes and returns how much that was. A write that
    /// was cut short tells the runtime that the socket is full.
    fn write_to(&mut self, app: &TcpStream) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let parts = self.pieces.iter().map(Bytes::as_ref);
        let parts = parts.chain(std::iter::once(self.gathered.as_ref()));
        let (mut used, mut offered) = (0, 0);
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
            used += 1;
            offered += part.len();
        }
        let mut written = None;
        let outcome = app.try_io(Interest::WRITABLE, || {
            let count = app.try_write_vectored(&slices[..used])?;
            written = Some(count);
            if count < offered {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(())
        });
        match (written, outcome) {
            (Some(written), _) => {
                self.advance(written);
                Ok(written)
            }
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn advance(&mut self, mut written: usize) {
        self.len -= written;
        while let Some(first) = self.pieces.front_mut() {
            let step = written.min(first.len());
            first.advance(step);
            written -= step;
            if first.has_remaining() {
                return;
            }
            self.pieces.pop_front();
        }
        self.gathered.advance(written);
        if self.is_empty() {
            // An idle connection holds no buffer.
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests;
