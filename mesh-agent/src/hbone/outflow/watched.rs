//! The connection under a tunnel, with an eye on the frames that pass. Wraps what HTTP/2 reads
//! and writes, and changes nothing of it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Outflow;
use super::frames::Frames;

/// Length of what a client sends before its first frame (RFC 9113 §3.4).
const PREFACE: usize = 24;

/// Which end of the tunnel we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::hbone) enum Side {
    Client,
    Server,
}

/// A connection whose frames an [`Outflow`] follows.
#[derive(Debug)]
pub(in crate::hbone) struct Watched<IO> {
    io: IO,
    outflow: Arc<Outflow>,
    read: Frames,
    written: Frames,
}

impl<IO> Watched<IO> {
    pub(in crate::hbone) fn new(io: IO, side: Side, outflow: Arc<Outflow>) -> Self {
        let (read, written) = match side {
            Side::Client => (0, PREFACE),
            Side::Server => (PREFACE, 0),
        };
        if side == Side::Server {
            outflow.plan();
        }
        Self {
            io,
            outflow,
            read: Frames::after(read),
            written: Frames::after(written),
        }
    }

    fn wrote(&mut self, bytes: &[u8]) {
        let outflow = &self.outflow;
        self.written.scan(bytes, |seen| outflow.wrote(seen));
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        let Self { read, outflow, .. } = &mut *self;
        read.scan(&buffer.filled()[before..], |seen| outflow.received(seen));
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.wrote(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices))?;
        let mut left = written;
        for slice in slices {
            let part = left.min(slice.len());
            self.wrote(&slice[..part]);
            left -= part;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
