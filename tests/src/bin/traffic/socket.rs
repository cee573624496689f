//! TCP sockets made by hand, with every option that the datapath must survive.

#![expect(
    unsafe_code,
    reason = "MPTCP, Fast Open and connect without checks need plain system calls"
)]

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    SockaddrLike, SockaddrStorage, bind, getpeername, getsockname, setsockopt, sockopt,
};

/// How a client socket is to be made and connected.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct How {
    /// Multipath TCP (protocol 262)
    #[arg(long)]
    pub(crate) mptcp: bool,
    /// Connect by sendto(MSG_FASTOPEN) with the first bytes
    #[arg(long, requires = "send")]
    pub(crate) fastopen: bool,
    /// Set TCP_FASTOPEN_CONNECT, then connect and write
    #[arg(long)]
    pub(crate) fastopen_connect: bool,
    /// Connect without blocking and await the result with poll
    #[arg(long)]
    pub(crate) nonblocking: bool,
    /// Bind to this address (port 0: any) before connecting
    #[arg(long)]
    pub(crate) bind: Option<SocketAddr>,
    /// SO_BINDTODEVICE
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// Reach an IPv4 destination from an IPv6 socket, as ::ffff:a.b.c.d
    #[arg(long)]
    pub(crate) v4mapped: bool,
}

/// Makes a socket and connects it. `first` is sent with the SYN where Fast Open is asked for;
/// the boolean says whether it was.
pub(crate) fn connect(to: SocketAddr, how: &How, first: &[u8]) -> io::Result<(TcpStream, bool)> {
    let to = if how.v4mapped { mapped(to) } else { to };
    let fd = open(to, how.mptcp)?;
    if let Some(device) = &how.device {
        setsockopt(&fd, sockopt::BindToDevice, &device.into())?;
    }
    if let Some(address) = how.bind {
        let address = if how.v4mapped {
            mapped(address)
        } else {
            address
        };
        bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    }
    if how.fastopen_connect {
        set_int(&fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1)?;
    }
    let stream = TcpStream::from(fd);
    if how.nonblocking {
        stream.set_nonblocking(true)?;
    }
    let sent = how.fastopen;
    let started = if how.fastopen {
        fast_open(&stream, to, first)
    } else {
        plain_connect(&stream, to)
    };
    match started {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) && how.nonblocking => {
            let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
            poll(&mut fds, PollTimeout::NONE)?;
            if let Some(error) = stream.take_error()? {
                return Err(error);
            }
        }
        other => other?,
    }
    stream.set_nonblocking(false)?;
    Ok((stream, sent))
}

/// Listens with a long queue; on `[::]` for both families.
pub(crate) fn listen(at: SocketAddr, mptcp: bool) -> io::Result<TcpListener> {
    let fd = open(at, mptcp)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if !mptcp {
        // Multipath sockets have no such option before Linux 6.2.
        set_int(&fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 1024)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(at))?;
    nix::sys::socket::listen(&fd, nix::sys::socket::Backlog::MAXCONN)?;
    Ok(TcpListener::from(fd))
}

/// Makes close() send a reset.
pub(crate) fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    Ok(setsockopt(
        stream,
        sockopt::Linger,
        &libc::linger {
            l_onoff: 1,
            l_linger: 0,
        },
    )?)
}

/// getsockname(2), as text.
pub(crate) fn local_name(stream: &impl AsRawFd) -> Option<String> {
    getsockname::<SockaddrStorage>(stream.as_raw_fd())
        .ok()
        .and_then(|name| text(&name))
}

/// getpeername(2), as text.
pub(crate) fn peer_name(stream: &impl AsRawFd) -> Option<String> {
    getpeername::<SockaddrStorage>(stream.as_raw_fd())
        .ok()
        .and_then(|name| text(&name))
}

/// The name of an error number, such as `ECONNREFUSED`.
pub(crate) fn errno_name(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(
        || format!("{:?}", error.kind()),
        |number| format!("{:?}", Errno::from_raw(number)),
    )
}

fn text(name: &SockaddrStorage) -> Option<String> {
    name.as_sockaddr_in()
        .map(|v4| SocketAddr::from(std::net::SocketAddrV4::from(*v4)))
        .or_else(|| {
            name.as_sockaddr_in6()
                .map(|v6| SocketAddr::from(std::net::SocketAddrV6::from(*v6)))
        })
        .map(|address| address.to_string())
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

fn open(address: SocketAddr, mptcp: bool) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let protocol = if mptcp {
        libc::IPPROTO_MPTCP
    } else {
        libc::IPPROTO_TCP
    };
    // SAFETY: takes no pointer; the descriptor it returns is owned by nobody else.
    let fd = Errno::result(unsafe {
        libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, protocol)
    })?;
    // SAFETY: `fd` was just opened here.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn plain_connect(stream: &TcpStream, to: SocketAddr) -> io::Result<()> {
    Ok(nix::sys::socket::connect(
        stream.as_raw_fd(),
        &SockaddrStorage::from(to),
    )?)
}

fn fast_open(stream: &TcpStream, to: SocketAddr, first: &[u8]) -> io::Result<()> {
    let address = SockaddrStorage::from(to);
    // SAFETY: the buffer and the address live through the call, and their lengths are theirs.
    let sent = unsafe {
        libc::sendto(
            stream.as_raw_fd(),
            first.as_ptr().cast(),
            first.len(),
            libc::MSG_FASTOPEN,
            address.as_ptr(),
            address.len(),
        )
    };
    Errno::result(sent)?;
    Ok(())
}

fn set_int(fd: &OwnedFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the kernel reads four bytes of `value`, which lives through the call.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), 4) };
    Errno::result(result)?;
    Ok(())
}
