//! Moves the bytes of one connection between an application and a tunnel, or
//! between two TCP sockets, until both sides have finished or either breaks.
//! The proxy calls it once for each connection it has permitted, and
//! [`reset`] for each it has not.
//!
//! What TCP tells one side is told the other: a half-close as a half-close, a
//! reset as a reset. An idle connection holds no buffer.

mod buffer;
mod down;
mod plain;
mod up;
mod watch;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::net::TcpStream;

use crate::budget::{OverLimit, PodBudget};
use crate::hbone::{StreamError, TunnelStream};
use crate::observe::Meter;
use down::Down;

/// How a connection ended. The bytes are in its [`Meter`].
#[derive(Debug)]
pub struct RelayEnd {
    /// Why it ended.
    pub cause: RelayCause,
}

/// Why a connection ended.
#[derive(Debug)]
pub enum RelayCause {
    /// Both sides finished in order and everything was passed on.
    Finished,
    /// The application reset its connection.
    AppReset,
    /// The peer reset the stream or its connection.
    PeerReset,
    /// The tunnel under the stream was lost.
    TunnelLost,
    /// The agent ended it.
    Cut,
    /// The pod may have no more bytes buffered, and this connection's reader does not read.
    OverLimit(OverLimit),
    /// A socket failed in another way.
    Io(io::Error),
}

/// Relays between an application and a tunnel. `cut` ends it early, with a
/// reset to both. Memory is bounded by the stream's two windows, whichever side stops
/// reading, and counts in `budget`.
pub async fn relay_tunnel(
    app: TcpStream,
    tunnel: TunnelStream,
    meter: &Meter,
    budget: &Arc<PodBudget>,
    cut: impl Future<Output = ()>,
) -> RelayEnd {
    let (mut read, mut write) = tunnel.split();
    let cause = {
        let mut down = Down::new(&app, &mut read, meter, budget.buffered());
        let mut up = pin!(up::run(&app, &mut write, meter, budget));
        let mut broken = pin!(watch::broken(&app));
        let mut cut = pin!(cut);
        let (mut up_ends, mut down_ends) = (false, false);
        poll_fn(|cx| {
            // Down goes first: data that came before a reset still reaches the
            // application when the same wake-up brings both.
            if !down_ends && let Poll::Ready(end) = down.poll(cx) {
                match end {
                    Ok(()) => down_ends = true,
                    Err(cause) => return Poll::Ready(cause),
                }
            }
            if !up_ends && let Poll::Ready(end) = up.as_mut().poll(cx) {
                match end {
                    Ok(()) => up_ends = true,
                    Err(cause) => return Poll::Ready(cause),
                }
            }
            if up_ends && down_ends {
                return Poll::Ready(RelayCause::Finished);
            }
            if let Poll::Ready(error) = broken.as_mut().poll(cx) {
                return Poll::Ready(app_failure(error));
            }
            cut.as_mut().poll(cx).map(|()| RelayCause::Cut)
        })
        .await
    };
    if !matches!(cause, RelayCause::Finished) {
        write.reset();
        reset(app);
    }
    RelayEnd { cause }
}

/// Relays between an application and a plain TCP connection of the agent's.
/// `cut` ends it early, with a reset to both.
pub async fn relay_tcp(
    app: TcpStream,
    peer: TcpStream,
    meter: &Meter,
    budget: &Arc<PodBudget>,
    cut: impl Future<Output = ()>,
) -> RelayEnd {
    let cause = plain::run(&app, &peer, meter, budget, cut).await;
    if !matches!(cause, RelayCause::Finished) {
        reset(app);
        reset(peer);
    }
    RelayEnd { cause }
}

/// Closes a connection with RST, so that its other end sees an error and not
/// an orderly end. Unsent data is dropped.
pub fn reset(socket: TcpStream) {
    // It fails only for a socket that is no longer one; closing is then all
    // that is left to do.
    let _ = socket.set_zero_linger();
}

/// What an error of the application's socket says about the connection.
fn app_failure(error: io::Error) -> RelayCause {
    if is_reset(&error) {
        RelayCause::AppReset
    } else {
        RelayCause::Io(error)
    }
}

/// ECONNRESET; EPIPE, when we had closed our side; ENOTCONN, when the error
/// was already taken from the socket.
fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected
    )
}

impl From<StreamError> for RelayCause {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Reset { .. } => Self::PeerReset,
            StreamError::TunnelLost { .. } => Self::TunnelLost,
        }
    }
}

#[cfg(test)]
mod tests;
