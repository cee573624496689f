//! The refusals and drops that the kernel programs tell of, for the agent's
//! log. The kernel limits their rate; what it leaves out is counted
//! ([`Counter::EventsSuppressed`]).
#![expect(
    unsafe_code,
    reason = "records of the ring are bytes that the programs wrote"
)]

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use aya::maps::{MapData, RingBuf};
use mesh_common::counters::Counter;
use mesh_common::event::Event;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::NetnsCookie;
use crate::addr;

/// One refusal or dropped packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelEvent {
    /// What happened.
    pub kind: Counter,
    /// Nanoseconds of `CLOCK_MONOTONIC` when it did.
    pub at_ns: u64,
    /// The pod's network namespace.
    pub netns: NetnsCookie,
    /// The pod's cgroup.
    pub cgroup_id: u64,
    /// The pod's end; `None` for a `connect()` that was refused before it chose
    /// one.
    pub local: Option<SocketAddr>,
    /// The other end.
    pub remote: SocketAddr,
}

/// The reader of the ring. Readable (`poll`, `AsyncFd`) when there are events;
/// read it with [`EventStream::next_event`] until that returns `None`.
pub struct EventStream(RingBuf<MapData>);

impl EventStream {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self(ring)
    }

    /// The next event that waits; `None` when none does. What this version does
    /// not understand is left out.
    pub fn next_event(&mut self) -> Option<KernelEvent> {
        loop {
            let record = self.0.next()?;
            if let Some(event) = decode(&record) {
                return Some(event);
            }
        }
    }
}

/// The ring on a reactor.
#[derive(Debug)]
pub struct KernelEvents(AsyncFd<EventStream>);

impl KernelEvents {
    /// Registers the ring with the calling task's reactor.
    ///
    /// # Errors
    /// When the reactor does not take it.
    pub fn new(stream: EventStream) -> io::Result<Self> {
        // SAFETY: an `EventStream` keeps the ring's descriptor until it is dropped, which is
        // when the `AsyncFd` that owns it is.
        let registered = unsafe { AsyncFd::register_with_interest(stream, Interest::READABLE) };
        Ok(Self(registered?))
    }

    /// Waits for the next event. Loses none when it is dropped half-way.
    ///
    /// # Errors
    /// When the ring can no longer be waited for.
    pub async fn next(&mut self) -> io::Result<KernelEvent> {
        loop {
            let mut ready = self.0.readable_mut().await?;
            match ready.get_inner_mut().next_event() {
                Some(event) => return Ok(event),
                None => ready.clear_ready(),
            }
        }
    }
}

impl AsFd for EventStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for EventStream {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream").finish_non_exhaustive()
    }
}

fn decode(record: &[u8]) -> Option<KernelEvent> {
    if record.len() < size_of::<Event>() {
        return None;
    }
    // SAFETY: long enough, read without regard to alignment, and `Event` holds
    // integers only, so that every bit pattern is one.
    let event: Event = unsafe { std::ptr::read_unaligned(record.as_ptr().cast()) };
    let local = SocketAddr::new(addr::from_bytes(event.local.bytes), event.local_port);
    let remote = SocketAddr::new(addr::from_bytes(event.remote.bytes), event.remote_port);
    Some(KernelEvent {
        kind: event.counter()?,
        at_ns: event.at_ns,
        netns: NetnsCookie(event.netns_cookie),
        cgroup_id: event.cgroup_id,
        local: (!local.ip().is_unspecified()).then_some(local),
        remote,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_common::ip::Ip;

    fn bytes(event: &Event) -> Vec<u8> {
        // SAFETY: `Event` has no padding (asserted where it is defined).
        let bytes = unsafe {
            std::slice::from_raw_parts(std::ptr::from_ref(event).cast(), size_of::<Event>())
        };
        <[u8]>::to_vec(bytes)
    }

    fn event() -> Event {
        Event {
            at_ns: 5,
            netns_cookie: 6,
            cgroup_id: 7,
            local: Ip::UNSPECIFIED,
            remote: Ip::from_v4_word(u32::from_ne_bytes([10, 0, 0, 2])),
            kind: Counter::RefusedForeignCgroup as u32,
            local_port: 0,
            remote_port: 80,
        }
    }

    #[test]
    fn a_record_is_decoded() {
        let decoded = decode(&bytes(&event())).unwrap();
        assert_eq!(decoded.kind, Counter::RefusedForeignCgroup);
        assert_eq!(decoded.netns, NetnsCookie(6));
        assert_eq!(decoded.local, None);
        assert_eq!(decoded.remote.to_string(), "10.0.0.2:80");
    }

    #[test]
    fn short_and_unknown_records_are_left_out() {
        let mut unknown = event();
        unknown.kind = u32::MAX;
        assert_eq!(decode(&bytes(&unknown)), None);
        assert_eq!(decode(&bytes(&event())[1..]), None);
        assert_eq!(decode(&[]), None);
    }
}
