//! The wire: HBONE tunnels as Istio ambient speaks them, that is HTTP/2
//! `CONNECT` inside mutual TLS, one stream a connection. The proxy opens
//! streams through [`Pool`], serves them through [`server::serve`], and hands
//! both kinds to the relay as a [`TunnelStream`].
//!
//! This module hides its HTTP/2 implementation: no type of it is visible
//! outside, so it can be exchanged for one that does only what HBONE needs.

mod baggage;
pub mod client;
mod forwarded;
mod keepalive;
mod outflow;
mod pool;
mod request;
pub mod server;
mod settings;
mod slots;
mod stream;
mod traceparent;
mod window;

pub use baggage::{Baggage, BaggageFields, WorkloadKind};
pub use client::{OpenError, TunnelClient};
pub use forwarded::{format_forwarded, parse_forwarded};
pub use pool::{Connected, Cut, Pool, PoolError, PoolSettings, PoolStats};
pub use request::{ConnectRequest, Malformed};
pub use server::{Incoming, Refusal, TunnelServer};
pub use settings::TunnelSettings;
pub use stream::{Credit, StreamError, TunnelRead, TunnelStream, TunnelWrite};
pub use traceparent::TraceParent;

/// Why a tunnel as a whole ended or could not be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TunnelError {
    /// The peer did not finish the HTTP/2 preface in time.
    #[error(
        "the peer did not finish the HTTP/2 preface within {0:?}: is it an HBONE endpoint at all?"
    )]
    HandshakeTimeout(std::time::Duration),
    /// The peer did not answer a PING in time.
    #[error("the peer did not answer an HTTP/2 PING within {0:?}: it is gone or unreachable")]
    KeepaliveTimeout(std::time::Duration),
    /// The peer broke the rules of HTTP/2, or told us that we did.
    #[error("HTTP/2 with the peer failed: {0}")]
    Protocol(String),
    /// The connection under the tunnel failed.
    #[error("the tunnel's connection failed: {0}")]
    Io(String),
}

impl From<h2::Error> for TunnelError {
    fn from(error: h2::Error) -> Self {
        if error.is_io() {
            Self::Io(error.to_string())
        } else {
            Self::Protocol(error.to_string())
        }
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
