//! A netlink socket inside a pod's network namespace: its devices, and the filters on them.
//! It stays in the namespace in which it was opened, so that only opening it enters one.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

use super::message::{self, Filter, Link, Reply, Side};

/// Bytes of one read; the kernel fills up to 32 KiB at a time in a dump.
const BUFFER: usize = 64 * 1024;

/// The socket. One request at a time: it is kept behind a lock.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: AtomicU32,
}

impl Netlink {
    /// Opens one in the namespace `netns`, on a thread that ends with it.
    pub(super) fn open_in(netns: BorrowedFd<'_>) -> io::Result<Self> {
        let open = || {
            setns(netns, CloneFlags::CLONE_NEWNET)?;
            Self::open()
        };
        thread::scope(|scope| {
            let entered = thread::Builder::new()
                .name("netns-device".to_owned())
                .spawn_scoped(scope, open)?;
            entered
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread that enters it panicked")))
        })
    }

    /// Opens one in the namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        Ok(Self {
            socket,
            sequence: AtomicU32::new(0),
        })
    }

    /// The devices of the namespace, `lo` left out.
    pub(super) fn devices(&self) -> io::Result<Vec<Link>> {
        let mut devices = Vec::new();
        self.ask(message::list_links, |reply| {
            if let Reply::Link(link) = reply
                && !link.loopback
            {
                devices.push(link);
            }
        })?;
        Ok(devices)
    }

    /// The index of `lo`.
    pub(super) fn loopback(&self) -> io::Result<i32> {
        let mut found = None;
        self.ask(message::list_links, |reply| {
            if let Reply::Link(link) = reply
                && link.loopback
            {
                found = Some(link.index);
            }
        })?;
        found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// The filters of one direction, in the order in which they are asked.
    pub(super) fn filters(&self, index: i32, side: Side) -> io::Result<Vec<Filter>> {
        let mut filters = Vec::new();
        let list = |sequence| message::list_filters(sequence, index, side);
        self.ask(list, |reply| {
            if let Reply::Filter(filter) = reply {
                filters.push(filter);
            }
        })?;
        Ok(filters)
    }

    /// Puts `program` on the device for one direction, in the place of an earlier one of an
    /// agent if there is one.
    pub(super) fn set(
        &self,
        index: i32,
        side: Side,
        program: BorrowedFd<'_>,
        name: &str,
        class_id: u32,
    ) -> io::Result<()> {
        let made = self.tell(|sequence| message::add_clsact(sequence, index));
        match made {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            other => other?,
        }
        let program = program.as_raw_fd() as u32;
        self.tell(|sequence| message::set_filter(sequence, index, side, program, name, class_id))
    }

    /// Takes the agent's filters off the device, and the place of filters when it is empty
    /// then. Nothing is an error that is gone already.
    pub(super) fn clear(&self, index: i32) -> io::Result<()> {
        let mut others = false;
        let mut ours = false;
        for side in Side::ALL {
            for filter in gone(self.filters(index, side))?.unwrap_or_default() {
                if filter.is_agents() {
                    ours = true;
                    gone(self.tell(|sequence| message::delete_filter(sequence, index, side)))?;
                } else {
                    others = true;
                }
            }
        }
        if ours && !others {
            gone(self.tell(|sequence| message::delete_clsact(sequence, index)))?;
        }
        Ok(())
    }

    fn tell(&self, request: impl FnOnce(u32) -> Vec<u8>) -> io::Result<()> {
        self.ask(request, |_| {})
    }

    fn ask(
        &self,
        request: impl FnOnce(u32) -> Vec<u8>,
        mut answer: impl FnMut(Reply),
    ) -> io::Result<()> {
        let sequence = self
            .sequence
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_add(1);
        let socket = self.socket.as_raw_fd();
        send(socket, &request(sequence), MsgFlags::empty())?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = recv(socket, &mut buffer, MsgFlags::empty())?;
            for reply in message::replies(&buffer[..length], sequence) {
                match reply {
                    Reply::Done | Reply::Error(0) => return Ok(()),
                    Reply::Error(errno) => return Err(io::Error::from_raw_os_error(errno)),
                    other => answer(other),
                }
            }
        }
    }
}

/// Takes a device, qdisc or filter that does not exist for `None`.
pub(super) fn gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENODEV | libc::ENOENT | libc::EINVAL)
            ) =>
        {
            Ok(None)
        }
        other => other.map(Some),
    }
}
