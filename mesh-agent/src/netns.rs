//! Work inside a pod's network namespace: opening the agent's listener there,
//! and the sockets with which it dials the application or a tunnel.
//!
//! `setns(2)` moves a whole thread, so it happens on dedicated threads only
//! ([`NetnsThreads`]); a worker thread of the data plane never enters a pod. What
//! the workers need, unconnected sockets, waits for them in a [`SocketStash`].

#![expect(
    unsafe_code,
    reason = "a socket option that nix does not know; descriptors made our own"
)]

mod stash;
mod thread;

use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, accept4,
    bind, listen, setsockopt, socket, sockopt,
};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::intercept::NetnsCookie;

pub use stash::{Family, PodSocket, SocketStash, TakeError};
pub use thread::{NetnsGone, NetnsThread, NetnsThreads};

/// Backlog of the agent's listener in a pod. The kernel caps it at the
/// namespace's `net.core.somaxconn` (4096 since Linux 5.4).
const BACKLOG: i32 = 4096;

/// An open pod network namespace. It stays alive while this is held.
#[derive(Debug)]
pub struct Netns {
    file: OwnedFd,
    cookie: NetnsCookie,
    inode: u64,
}

impl Netns {
    /// Opens the namespace at `path` (a bind mount of nsfs, such as
    /// `/run/netns/web`, or `/proc/<pid>/ns/net`) and asks the kernel for its
    /// cookie, which identifies it in the eBPF maps.
    ///
    /// # Errors
    /// When the path cannot be opened, is no network namespace, or the kernel
    /// has no `SO_NETNS_COOKIE` (before Linux 5.14).
    pub async fn open(path: &Path, thread: &NetnsThread) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let file = File::open(path)?;
        let inode = file.metadata()?.ino();
        let file = OwnedFd::from(file);
        let cookie = thread.run(file.as_fd(), own_netns_cookie).await??;
        Ok(Self {
            file,
            cookie,
            inode,
        })
    }

    /// The kernel's cookie of this namespace.
    pub fn cookie(&self) -> NetnsCookie {
        self.cookie
    }

    /// Whether `path` still names this very namespace.
    pub fn is_at(&self, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(path).is_ok_and(|found| found.ino() == self.inode)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Where the DaemonSet mounts the host's view of these settings: a container that is not
/// privileged has its own `/proc/sys` read-only. Whose they are goes by the namespace of
/// the thread that writes, not by the mount.
const TW_REUSE_OF_HOST: &str = "/host/proc/sys/net/ipv4/tcp_tw_reuse";

/// What a pod's namespace gave the agent at enrolment.
#[derive(Debug)]
pub struct Prepared {
    /// The listener that all of the pod's traffic reaches, on a fresh port.
    pub listener: TcpListener,
    /// Why client-closed connections may exhaust the pod's ports, if
    /// `net.ipv4.tcp_tw_reuse` could not be set.
    pub tw_reuse: Result<(), String>,
}

/// Prepares the namespace that the calling thread is in: a listener on all
/// addresses of both families, and `net.ipv4.tcp_tw_reuse=1`, without which
/// connections that the client closed hold their port for a minute each.
///
/// # Errors
/// When no listener can be opened in either form.
pub fn prepare_current() -> io::Result<Prepared> {
    // The pod may have IPv6 switched off altogether (`ipv6.disable=1`).
    let listener = listen_on(Family::V6).or_else(|_| listen_on(Family::V4))?;
    let tw_reuse = std::fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1")
        .or_else(|error| std::fs::write(TW_REUSE_OF_HOST, "1").map_err(|_| error))
        .map_err(|error| format!("cannot set net.ipv4.tcp_tw_reuse=1 in the pod: {error}"));
    Ok(Prepared { listener, tw_reuse })
}

fn listen_on(family: Family) -> io::Result<TcpListener> {
    let fd = stream_socket(family)?;
    match family {
        Family::V6 => {
            setsockopt(&fd, sockopt::Ipv6V6Only, &false)?;
            let any = std::net::SocketAddrV6::new(std::net::Ipv6Addr::UNSPECIFIED, 0, 0, 0);
            bind(fd.as_raw_fd(), &SockaddrIn6::from(any))?;
        }
        Family::V4 => bind(fd.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, 0))?,
    }
    listen(&fd, Backlog::new(BACKLOG)?)?;
    // A pod's `net.ipv4.tcp_fastopen` may have made it a server of TCP Fast Open, whose
    // connections are accepted at the SYN: before their original destination is known.
    refuse_fast_open(&fd)?;
    Ok(TcpListener::from(fd))
}

/// Takes a listener's queue of TCP Fast Open away (tcp(7), `TCP_FASTOPEN`).
fn refuse_fast_open(listener: &OwnedFd) -> io::Result<()> {
    let queue: libc::c_int = 0;
    // SAFETY: `queue` is as long as said; the descriptor is open.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN,
            (&raw const queue).cast(),
            size_of_val(&queue) as libc::socklen_t,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A non-blocking TCP socket in the namespace that the calling thread is in.
pub(crate) fn stream_socket(family: Family) -> io::Result<OwnedFd> {
    let family = match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    Ok(socket(family, SockType::Stream, flags, SockProtocol::Tcp)?)
}

fn own_netns_cookie() -> io::Result<NetnsCookie> {
    let fd = stream_socket(Family::V4)?;
    let mut cookie = 0u64;
    let mut size = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `cookie` is 8 writable bytes and `size` says so; the descriptor is open.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(NetnsCookie(cookie))
}

/// A listener on a worker's reactor. What it accepts is registered with none yet:
/// the connection may go to another worker.
#[derive(Debug)]
pub struct Acceptor(AsyncFd<Arc<TcpListener>>);

impl Acceptor {
    /// Registers the listener with the calling worker's reactor.
    ///
    /// # Errors
    /// When the reactor does not take it.
    pub fn new(listener: Arc<TcpListener>) -> io::Result<Self> {
        // SAFETY: a `TcpListener` owns its descriptor and keeps it until it is dropped, which
        // is when the `AsyncFd` that shares it is, or later.
        let registered = unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) };
        Ok(Self(registered?))
    }

    /// A connection that waits now, as a non-blocking descriptor.
    ///
    /// # Errors
    /// Those of `accept4(2)`; `WouldBlock` when none waits.
    pub fn try_accept(&self) -> io::Result<TcpStream> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let accepted = accept4(self.0.get_ref().as_raw_fd(), flags)?;
        // SAFETY: accept4 returned this descriptor just now and nothing else owns it.
        Ok(unsafe { TcpStream::from_raw_fd(accepted) })
    }

    /// The next connection, as a non-blocking descriptor.
    ///
    /// # Errors
    /// Those of `accept4(2)`.
    pub async fn accept(&self) -> io::Result<TcpStream> {
        loop {
            let mut ready = self.0.readable().await?;
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let accepted = ready.try_io(|listener| Ok(accept4(listener.as_raw_fd(), flags)?));
            if let Ok(accepted) = accepted {
                // SAFETY: accept4 returned this descriptor just now and nothing else owns it.
                return accepted.map(|fd| unsafe { TcpStream::from_raw_fd(fd) });
            }
        }
    }
}
