//! A recording of every frame on the bridge, and questions about it.

mod frame;
mod tls;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use self::frame::Segment;
use crate::netns::Netns;

/// A running recording.
#[derive(Debug)]
pub struct Capture {
    stop: std::sync::Arc<EventFd>,
    thread: Option<JoinHandle<Result<Recording>>>,
}

impl Capture {
    /// Starts to record in the namespace of a bridge.
    ///
    /// # Errors
    /// Fails when the packet socket cannot be opened.
    pub fn start(bridge: &Netns) -> Result<Self> {
        let socket = bridge.run(frame::open_socket)?;
        let stop = std::sync::Arc::new(EventFd::new()?);
        let signal = stop.clone();
        let thread = std::thread::Builder::new()
            .name("capture".into())
            .spawn(move || record(&socket, &signal))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Ends the recording. Whatever was sent before this call is in it: the kernel hands a
    /// frame to the recording socket before it delivers it.
    ///
    /// # Errors
    /// Fails when the kernel dropped frames, so that nothing could be said about them.
    ///
    /// # Panics
    /// Passes on a panic of the recording thread.
    pub fn stop(mut self) -> Result<Recording> {
        self.stop.write(1)?;
        let thread = self.thread.take().context("a recording is stopped once")?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.stop.write(1);
            let _ = thread.join();
        }
    }
}

/// What crossed the bridge: each direction of each TCP connection as one stream of bytes.
#[derive(Debug, Default)]
pub struct Recording {
    streams: BTreeMap<Direction, Vec<u8>>,
    syns: Vec<Direction>,
    frames: usize,
    other: Vec<u8>,
}

/// One direction of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Direction {
    /// Who sends.
    pub from: SocketAddr,
    /// Who receives.
    pub to: SocketAddr,
}

impl Recording {
    /// How many frames crossed the bridge.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Whether these bytes went over the bridge in the clear, even when cut in two by packets.
    #[must_use]
    pub fn contains(&self, marker: &[u8]) -> bool {
        let has = |bytes: &[u8]| bytes.windows(marker.len()).any(|window| window == marker);
        self.streams.values().any(|bytes| has(bytes)) || has(&self.other)
    }

    /// Each direction in which TCP carried bytes.
    pub fn directions(&self) -> impl Iterator<Item = Direction> {
        self.streams
            .iter()
            .filter(|(_, bytes)| !bytes.is_empty())
            .map(|(direction, _)| *direction)
    }

    /// The directions of all SYN segments without ACK.
    #[must_use]
    pub fn syns(&self) -> &[Direction] {
        &self.syns
    }

    /// The bytes that went in one direction.
    #[must_use]
    pub fn bytes(&self, direction: Direction) -> &[u8] {
        self.streams.get(&direction).map_or(&[], Vec::as_slice)
    }

    /// The connections to `port` on which the server chose TLS 1.3 and both sides sent
    /// encrypted records, named by the direction from client to server.
    #[must_use]
    pub fn tls13_connections(&self, port: u16) -> Vec<Direction> {
        self.streams
            .iter()
            .filter(|(direction, _)| direction.to.port() == port)
            .filter(|(direction, sent)| {
                let answer = self.bytes(Direction {
                    from: direction.to,
                    to: direction.from,
                });
                tls::is_client_hello(sent)
                    && tls::chose_tls13(answer)
                    && tls::has_encrypted(sent)
                    && tls::has_encrypted(answer)
            })
            .map(|(direction, _)| *direction)
            .collect()
    }

    /// Directions that carried bytes although neither end is `port`.
    #[must_use]
    pub fn beside(&self, port: u16) -> Vec<Direction> {
        self.directions()
            .filter(|d| d.from.port() != port && d.to.port() != port)
            .collect()
    }

    fn add(&mut self, segment: &Segment<'_>) {
        let direction = Direction {
            from: segment.from,
            to: segment.to,
        };
        if segment.syn && !segment.ack {
            self.syns.push(direction);
        }
        self.streams
            .entry(direction)
            .or_default()
            .extend_from_slice(segment.payload);
    }
}

fn record(socket: &OwnedFd, stop: &EventFd) -> Result<Recording> {
    let mut recording = Recording::default();
    // Offloads make frames of up to 64 KiB and a header.
    let mut buffer = vec![0; 128 * 1024];
    let mut stopping = false;
    loop {
        match nix::sys::socket::recv(
            socket.as_raw_fd(),
            &mut buffer,
            nix::sys::socket::MsgFlags::MSG_DONTWAIT,
        ) {
            Ok(length) => {
                recording.frames += 1;
                match frame::parse(&buffer[..length]) {
                    Some(segment) => recording.add(&segment),
                    None => recording.other.extend_from_slice(&buffer[..length]),
                }
            }
            Err(Errno::EAGAIN) if stopping => break,
            Err(Errno::EAGAIN) => {
                let mut fds = [
                    PollFd::new(socket.as_fd(), PollFlags::POLLIN),
                    PollFd::new(stop.as_fd(), PollFlags::POLLIN),
                ];
                poll(&mut fds, PollTimeout::NONE)?;
                stopping = fds[1].any().unwrap_or(false);
            }
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("reading frames"),
        }
    }
    let dropped = frame::dropped(socket)?;
    ensure!(dropped == 0, "the recording missed {dropped} frames");
    Ok(recording)
}
