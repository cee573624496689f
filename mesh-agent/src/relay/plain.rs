//! Between two TCP sockets, for destinations outside the mesh and for
//! plaintext that a permissive server takes.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::io::Interest;
use tokio::net::TcpStream;

use super::buffer::{LARGEST, ReadSize, SMALLEST};
use super::down::finish;
use super::{Meter, RelayCause, app_failure, is_reset, watch};
use crate::budget::{Buffered, OverLimit, PodBudget};

/// Which end of a direction an error is about.
enum Failure {
    Source(io::Error),
    Sink(io::Error),
    OverLimit(OverLimit),
}

pub(super) async fn run(
    app: &TcpStream,
    peer: &TcpStream,
    meter: &Meter,
    budget: &Arc<PodBudget>,
    cut: impl Future<Output = ()>,
) -> RelayCause {
    let account = || budget.buffered();
    let mut up = pin!(pump(app, peer, account(), |n| meter.add_sent(n as u64)));
    let mut down = pin!(pump(peer, app, account(), |n| meter.add_received(n as u64)));
    let mut app_broken = pin!(watch::broken(app));
    let mut peer_broken = pin!(watch::broken(peer));
    let mut cut = pin!(cut);
    let (mut up_ends, mut down_ends) = (false, false);
    poll_fn(|cx| {
        if !down_ends && let Poll::Ready(end) = down.as_mut().poll(cx) {
            match end {
                Ok(()) => down_ends = true,
                Err(Failure::Source(error)) => return Poll::Ready(peer_failure(error)),
                Err(Failure::Sink(error)) => return Poll::Ready(app_failure(error)),
                Err(Failure::OverLimit(over)) => return Poll::Ready(RelayCause::OverLimit(over)),
            }
        }
        if !up_ends && let Poll::Ready(end) = up.as_mut().poll(cx) {
            match end {
                Ok(()) => up_ends = true,
                Err(Failure::Source(error)) => return Poll::Ready(app_failure(error)),
                Err(Failure::Sink(error)) => return Poll::Ready(peer_failure(error)),
                Err(Failure::OverLimit(over)) => return Poll::Ready(RelayCause::OverLimit(over)),
            }
        }
        if up_ends && down_ends {
            return Poll::Ready(RelayCause::Finished);
        }
        if let Poll::Ready(error) = app_broken.as_mut().poll(cx) {
            return Poll::Ready(app_failure(error));
        }
        if let Poll::Ready(error) = peer_broken.as_mut().poll(cx) {
            return Poll::Ready(peer_failure(error));
        }
        cut.as_mut().poll(cx).map(|()| RelayCause::Cut)
    })
    .await
}

fn peer_failure(error: io::Error) -> RelayCause {
    if is_reset(&error) {
        RelayCause::PeerReset
    } else {
        RelayCause::Io(error)
    }
}

/// Moves bytes from `source` to `sink` until `source` has finished. Only what
/// `sink` did not take at once is held, and no more is read until it is gone.
async fn pump(
    source: &TcpStream,
    sink: &TcpStream,
    mut account: Buffered,
    count: impl Fn(usize),
) -> Result<(), Failure> {
    let mut size = ReadSize::new();
    loop {
        let ready = poll_fn(|cx| source.poll_read_ready(cx));
        ready.await.map_err(Failure::Source)?;
        let asked = match account.is_pressed() {
            true => SMALLEST,
            false => size.get(),
        };
        let step = match step(source, sink, asked)? {
            Some(step) => step,
            None => continue,
        };
        size.learn(step.read, asked);
        count(step.written);
        if step.read == 0 {
            return finish(sink).map_err(Failure::Sink);
        }
        let mut rest = &step.rest[..];
        if !rest.is_empty() {
            account.set(rest.len()).map_err(Failure::OverLimit)?;
        }
        while !rest.is_empty() {
            let ready = poll_fn(|cx| sink.poll_write_ready(cx));
            ready.await.map_err(Failure::Sink)?;
            let written = write_some(sink, rest).map_err(Failure::Sink)?;
            count(written);
            rest = &rest[written..];
        }
        let _ = account.set(0); // giving back does not fail
    }
}

/// One read and the write that follows it.
struct Step {
    read: usize,
    written: usize,
    /// What `sink` did not take.
    rest: Vec<u8>,
}

/// `None` when there was nothing to read after all.
fn step(source: &TcpStream, sink: &TcpStream, max: usize) -> Result<Option<Step>, Failure> {
    thread_local! {
        static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; LARGEST]);
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let Some(read) = read_some(source, &mut scratch[..max]).map_err(Failure::Source)? else {
            return Ok(None);
        };
        let data = &scratch[..read];
        let written = match data {
            [] => 0,
            _ => write_some(sink, data).map_err(Failure::Sink)?,
        };
        let rest = data[written..].to_vec();
        Ok(Some(Step {
            read,
            written,
            rest,
        }))
    })
}

/// Reads without waiting; a read that got less than it had room for tells the
/// runtime that the socket is empty. `Some(0)` is the end.
fn read_some(source: &TcpStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let mut got = None;
    let outcome = source.try_io(Interest::READABLE, || {
        let read = source.try_read(buffer)?;
        got = Some(read);
        match read < buffer.len() && read > 0 {
            true => Err(io::ErrorKind::WouldBlock.into()),
            false => Ok(()),
        }
    });
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(got),
    }
}

/// Writes without waiting and returns how much the socket took, perhaps
/// nothing; a write cut short tells the runtime that the socket is full.
fn write_some(sink: &TcpStream, data: &[u8]) -> io::Result<usize> {
    let mut wrote = 0;
    let outcome = sink.try_io(Interest::WRITABLE, || {
        wrote = sink.try_write(data)?;
        match wrote < data.len() {
            true => Err(io::ErrorKind::WouldBlock.into()),
            false => Ok(()),
        }
    });
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(wrote),
    }
}
