//! How much each stream of a tunnel may have on its way to the peer. A stream whose reader
//! stalls keeps its part of the peer's connection window, which all streams of the tunnel
//! share: ztunnel's is four stream windows wide (`http2_connection_window_size`,
//! `http2_stream_window_size`). So a stream may fill its own window only as long as enough
//! for a share of each other stream is left, or where it is the only one that sends.
//!
//! HTTP/2 implementations return window late: `h2` once a third of a stream's window was
//! read. So a share is more than that, or a stream would wait for an update that never comes.
//! [`Watched`] follows the connection's window, which the HTTP/2 implementation does not
//! tell; the streams ask through their [`Allowance`], and the pool whether a tunnel
//! [has room](Outflow::has_room) for one more.

mod frames;
mod watched;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use frames::Seen;
pub(super) use watched::{Side, Watched};

/// The windows of a connection before the peer has said anything (RFC 9113 §6.9.2).
const INITIAL_WINDOW: i64 = 65_535;

/// The smallest piece that is granted, so that shares do not end in crumbs.
const PIECE: i64 = 16 << 10;

/// The largest, since HTTP/2 sets the window aside for it before it is written.
const MOST: usize = 256 << 10;

/// In flight up to this, a stream counts as idle: a reader returns so little late.
const IDLE: i64 = 64 << 10;

/// Streams for which a server keeps shares before they are opened, since the client alone
/// decides which tunnel it opens them in. As many as ztunnel's window has room for beside one
/// full stream; a client of ours opens another tunnel instead.
const PLANNED: usize = 9;

/// What a tunnel has on its way to the peer.
#[derive(Debug)]
pub(super) struct Outflow(Mutex<State>);

#[derive(Debug)]
struct State {
    /// The connection's window: bytes that may be written now.
    free: i64,
    /// Bytes of all streams that were handed over and are not written yet.
    queued: i64,
    /// The largest that it was: all of it.
    most: i64,
    /// The peer's window of a new stream.
    stream_window: i64,
    /// Streams that have a share before they are opened.
    planned: usize,
    streams: HashMap<u32, Stream>,
}

#[derive(Debug, Default)]
struct Stream {
    /// Bytes handed over and not yet returned by the peer; below zero while the peer makes
    /// the stream's window larger.
    in_flight: i64,
    /// Of these, bytes that are not written yet.
    queued: i64,
    waiting: Option<Waker>,
}

/// One stream's part; dropping it leaves it to the others.
#[derive(Debug)]
pub(super) struct Allowance {
    of: Arc<Outflow>,
    id: u32,
}

impl Outflow {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            free: INITIAL_WINDOW,
            queued: 0,
            most: INITIAL_WINDOW,
            stream_window: INITIAL_WINDOW,
            planned: 0,
            streams: HashMap::new(),
        })))
    }

    /// The allowance of a new stream.
    pub(super) fn stream(self: &Arc<Self>, id: u32) -> Allowance {
        self.lock().streams.insert(id, Stream::default());
        Allowance {
            of: Arc::clone(self),
            id,
        }
    }

    /// Whether one more stream would have its share. A tunnel of which less than half of the
    /// window is in use always has: its streams are idle, or read quickly.
    pub(super) fn has_room(&self) -> bool {
        let state = self.lock();
        let Some(share) = state.share() else {
            return true;
        };
        state.free >= state.most / 2 || state.free - state.reserved(None, share) >= share
    }

    /// The peer opens the streams: shares are kept for some that may come.
    fn plan(&self) {
        self.lock().planned = PLANNED;
    }

    /// A frame that we wrote.
    fn wrote(&self, seen: Seen) {
        let Seen::Data { stream, length } = seen else {
            return;
        };
        let mut state = self.lock();
        let length = i64::from(length);
        state.free -= length;
        if let Some(stream) = state.streams.get_mut(&stream) {
            let written = length.min(stream.queued);
            stream.queued -= written;
            state.queued -= written;
        }
    }

    /// A frame that the peer sent.
    fn received(&self, seen: Seen) {
        match seen {
            Seen::Data { .. } => {}
            Seen::InitialWindow(size) => self.lock().stream_window = i64::from(size),
            Seen::WindowUpdate { stream: 0, by } => {
                let mut state = self.lock();
                state.free += i64::from(by);
                state.most = state.most.max(state.free);
                state.wake_all();
            }
            Seen::WindowUpdate { stream, by } => {
                let mut state = self.lock();
                if let Some(stream) = state.streams.get_mut(&stream) {
                    stream.in_flight -= i64::from(by);
                }
                // Another one may be the only one that sends now.
                state.wake_all();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Allowance {
    /// Bytes that the stream may hand over now, at most `want` and at least one.
    pub(super) fn poll(&self, cx: &mut Context<'_>, want: usize) -> Poll<usize> {
        let mut state = self.of.lock();
        let allowed = state.allowed(self.id);
        if allowed > 0 {
            let allowed = usize::try_from(allowed).unwrap_or(usize::MAX);
            return Poll::Ready(want.min(allowed).min(MOST));
        }
        if let Some(stream) = state.streams.get_mut(&self.id) {
            stream.waiting = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// `length` bytes were handed over.
    pub(super) fn handed_over(&self, length: usize) {
        let mut state = self.of.lock();
        let length = i64::try_from(length).unwrap_or(0);
        if let Some(stream) = state.streams.get_mut(&self.id) {
            stream.in_flight += length;
            stream.queued += length;
            state.queued += length;
        }
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        let mut state = self.of.lock();
        if let Some(stream) = state.streams.remove(&self.id) {
            state.queued -= stream.queued;
        }
        // What was reserved for it is free.
        state.wake_all();
    }
}

impl State {
    /// What each stream may always have in flight. `None` with a peer whose streams' windows
    /// are so large in comparison that shares would mean nothing.
    fn share(&self) -> Option<i64> {
        let share = self.stream_window * 3 / 8;
        (share <= self.most / 2).then_some(share.max(PIECE))
    }

    /// What is left for the shares of the streams but `except`. Never all of the window: with
    /// very many streams, one of them may still use a quarter of it.
    fn reserved(&self, except: Option<u32>, share: i64) -> i64 {
        let others = self.streams.iter().filter(|(id, _)| Some(**id) != except);
        let open = others.map(|(_, stream)| (share - stream.in_flight.max(0)).max(0));
        open.sum::<i64>().min(self.most / 4 * 3)
    }

    fn allowed(&self, id: u32) -> i64 {
        let (Some(share), Some(stream)) = (self.share(), self.streams.get(&id)) else {
            return i64::MAX;
        };
        if stream.in_flight < share {
            return (share - stream.in_flight).max(PIECE);
        }
        let mut others = self.streams.iter().filter(|(other, _)| **other != id);
        if others.all(|(_, other)| other.in_flight <= IDLE) {
            return self.free;
        }
        let unopened = self.planned.saturating_sub(self.streams.len());
        let unopened = i64::try_from(unopened).unwrap_or(0) * share;
        let reserved = (self.reserved(Some(id), share) + unopened).min(self.most / 4 * 3);
        self.free - self.queued - reserved
    }

    fn wake_all(&mut self) {
        self.streams.values_mut().for_each(Stream::wake);
    }
}

impl Stream {
    fn wake(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }
}

#[cfg(test)]
mod tests;
