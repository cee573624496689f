//! Bounds of the kernel's buffers: how much of one connection waits in a socket of the agent's
//! while a side does not read. Called by `accept` and `dial`.
//!
//! The kernel lets a socket's send buffer grow to `tcp_wmem` and its receive buffer to
//! `tcp_rmem` (4 MiB and 6 to 32 MiB by default), whether or not anything is read. Data that
//! was not sent yet is bounded on every socket that carries one connection; the receive buffer
//! only towards the pod's own application, where the round trip is short and a small buffer
//! costs no throughput.

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};

use self::options::{NotSentLowAt, WindowClamp};

/// Bytes that a socket takes before they are sent: the relay's largest write.
const NOT_SENT: u32 = 256 << 10;

/// Receive window towards the pod's own application, in bytes.
const WINDOW: u32 = 512 << 10;

/// Receive buffer that is asked for. The kernel doubles it, for its overhead of each segment.
const RECEIVE_BUFFER: usize = WINDOW as usize;

mod options {
    use nix::{setsockopt_impl, sockopt_impl};

    sockopt_impl!(
        NotSentLowAt,
        SetOnly,
        libc::IPPROTO_TCP,
        libc::TCP_NOTSENT_LOWAT,
        u32
    );
    sockopt_impl!(
        WindowClamp,
        SetOnly,
        libc::IPPROTO_TCP,
        libc::TCP_WINDOW_CLAMP,
        u32
    );
}

/// Bounds both buffers of a connection between the agent and the pod's own application.
///
/// # Errors
/// Those of `setsockopt(2)`.
pub(super) fn bound_local(socket: &impl AsFd) -> io::Result<()> {
    // Without CAP_NET_ADMIN over the namespace, `rmem_max` bounds what is asked for.
    setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
        .or_else(|_| setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER))?;
    // A buffer that is set does not grow with the flow, so its window is opened at once.
    setsockopt(socket, WindowClamp, &WINDOW)?;
    bound_unsent(socket)
}

/// Bounds what the socket holds unsent. What was sent and not acknowledged is bounded by the
/// receiver's window.
///
/// # Errors
/// Those of `setsockopt(2)`.
pub(super) fn bound_unsent(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(socket, NotSentLowAt, &NOT_SENT)?)
}
