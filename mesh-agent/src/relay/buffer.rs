//! How much is read at once, and into what. Used for the direction from a
//! socket into a tunnel.
//!
//! A flow starts with one TLS record's worth and grows to sixteen while it
//! fills what it is given. Small reads go through one buffer of the thread and
//! are copied out at their exact size: many small pieces waiting for a slow
//! tunnel then cost what they carry, and not a buffer each.

use std::cell::RefCell;
use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// One TLS record.
pub(super) const SMALLEST: usize = 16 << 10;
/// Sixteen TLS records; more did not help (see the project's notes on speed).
pub(super) const LARGEST: usize = 256 << 10;

/// The read size of one flow, in bytes.
#[derive(Debug)]
pub(super) struct ReadSize(usize);

impl ReadSize {
    pub(super) fn new() -> Self {
        Self(SMALLEST)
    }

    pub(super) fn get(&self) -> usize {
        self.0
    }

    /// Learns from a read of `got` bytes where `asked` were allowed.
    pub(super) fn learn(&mut self, got: usize, asked: usize) {
        if got >= self.0 {
            self.0 = (self.0 * 4).min(LARGEST);
        } else if got < asked && got < self.0 / 4 {
            self.0 = (self.0 / 2).max(SMALLEST);
        }
    }
}

/// What one round of reading brought.
#[derive(Debug, Default)]
pub(super) struct Filled {
    pub(super) data: Bytes,
    /// The sender has finished.
    pub(super) end: bool,
}

/// Reads what is there, at most `max` bytes, without waiting.
pub(super) fn read_available(socket: &TcpStream, max: usize) -> io::Result<Filled> {
    thread_local! {
        static SCRATCH: RefCell<BytesMut> = RefCell::new(BytesMut::with_capacity(SMALLEST));
    }
    if max > SMALLEST {
        let mut own = BytesMut::with_capacity(max);
        let end = fill(socket, &mut own, max)?;
        // A buffer mostly empty is not worth keeping while it waits.
        let data = if own.len() < max / 4 {
            Bytes::copy_from_slice(&own)
        } else {
            own.freeze()
        };
        return Ok(Filled { data, end });
    }
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.clear();
        let end = fill(socket, scratch, max)?;
        let data = Bytes::copy_from_slice(scratch);
        Ok(Filled { data, end })
    })
}

/// True at the end of what the sender sends.
fn fill(socket: &TcpStream, buffer: &mut BytesMut, max: usize) -> io::Result<bool> {
    while buffer.len() < max {
        match read_once(socket, buffer, max - buffer.len()) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// A read that got less than it had room for has emptied the socket; saying so
/// to the runtime saves the read that would only find out.
fn read_once(socket: &TcpStream, buffer: &mut BytesMut, room: usize) -> io::Result<usize> {
    let mut got = None;
    let outcome = socket.try_io(Interest::READABLE, || {
        let read = socket.try_read_buf(&mut (&mut *buffer).limit(room))?;
        got = Some(read);
        if 0 < read && read < room {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(())
    });
    match (got, outcome) {
        (Some(read), _) => Ok(read),
        (None, Err(error)) => Err(error),
        (None, Ok(())) => Err(io::ErrorKind::WouldBlock.into()),
    }
}
