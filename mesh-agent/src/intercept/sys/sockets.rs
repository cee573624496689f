//! What the kernel says of a listening socket and of a namespace's file.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::socket::{getsockopt, sockopt};

/// A socket that should be listening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::intercept) struct Listener {
    /// Its cookie, as a sockhash shows it (`SO_COOKIE`).
    pub(in crate::intercept) cookie: u64,
    /// Whether it listens (`SO_ACCEPTCONN`).
    pub(in crate::intercept) accepts: bool,
    /// The cookie of its network namespace (`SO_NETNS_COOKIE`).
    pub(in crate::intercept) netns_cookie: u64,
}

/// What the kernel says of `socket`.
pub(in crate::intercept) fn listener(socket: BorrowedFd<'_>) -> io::Result<Listener> {
    Ok(Listener {
        cookie: number(socket, libc::SO_COOKIE)?,
        accepts: getsockopt(&socket, sockopt::AcceptConn)?,
        netns_cookie: number(socket, libc::SO_NETNS_COOKIE)?,
    })
}

/// The inode of an open file.
pub(in crate::intercept) fn inode(file: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(nix::sys::stat::fstat(file)?.st_ino)
}

fn number(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<u64> {
    let mut value = 0u64;
    let mut size = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `value` is 8 writable bytes and `size` says so; the descriptor is open.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw mut value).cast(),
            &raw mut size,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(value)
}
