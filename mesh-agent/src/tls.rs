//! Mutual TLS between agents: handshakes that prove both identities, and what a
//! failed one means. The proxy calls [`accept`] and [`connect`] around the
//! sockets of tunnels; certificates come from [`crate::identity`].
//!
//! As in Istio ambient: TLS 1.3 only, client certificates required, ALPN `h2`,
//! no server name. Sessions are never resumed, there are no tickets and no early
//! data: a resumed session would skip the look at the peer's certificate.

mod config;
mod failure;
mod provider;
mod verify;

use std::time::Duration;

use rustls::CommonState;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::identity::{Credential, SpiffeId, peer_identity};

pub use config::ConfigError;
pub(crate) use config::Configs;
pub use failure::{HandshakeFailure, handshake_failure};
pub(crate) use provider::{fill_random, provider, random_fraction};
pub use verify::VerificationError;

/// The protocol inside, which both ends must name (RFC 7301): HTTP/2.
pub const ALPN: &[u8] = b"h2";

/// How long a handshake may take, so that a silent peer holds no socket for
/// good. Our choice; a handshake across the world needs well under a second.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// A finished handshake.
#[derive(Debug)]
pub struct Secured<S> {
    /// The encrypted stream.
    pub stream: S,
    /// What was agreed on.
    pub session: Session,
}

/// What a handshake agreed on, for logs and policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The identity that the peer proved.
    pub peer: SpiffeId,
    /// The protocol version by its common name, `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite by its name at IANA.
    pub suite: &'static str,
}

/// Accepts a tunnel for the holder of `credential`. The peer has proved to be
/// a workload of the same trust domain when this returns.
///
/// # Errors
/// Why the handshake failed. The peer has been sent the matching alert.
pub async fn accept<IO>(
    credential: &Credential,
    io: IO,
) -> Result<Secured<server::TlsStream<IO>>, HandshakeFailure>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = TlsAcceptor::from(credential.server_config()?).accept(io);
    let stream = within_deadline(handshake).await?;
    let session = session(stream.get_ref().1)?;
    Ok(Secured { stream, session })
}

/// Opens a tunnel as the holder of `credential` to a peer that must prove to be
/// `expected`. The peer looks at our certificate after this returns, so its
/// refusal shows as an alert on the first read; [`handshake_failure`] reads it.
///
/// # Errors
/// Why the handshake failed.
pub async fn connect<IO>(
    credential: &Credential,
    expected: &SpiffeId,
    io: IO,
) -> Result<Secured<client::TlsStream<IO>>, HandshakeFailure>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    // The type wants a name. It is not sent (there is no SNI) nor compared.
    let nobody = ServerName::from(std::net::IpAddr::from([0, 0, 0, 0]));
    let connector = TlsConnector::from(credential.client_config(expected)?);
    let stream = within_deadline(connector.connect(nobody, io)).await?;
    let session = session(stream.get_ref().1)?;
    Ok(Secured { stream, session })
}

async fn within_deadline<S>(
    handshake: impl Future<Output = std::io::Result<S>>,
) -> Result<S, HandshakeFailure> {
    match tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await {
        Ok(done) => done.map_err(|error| handshake_failure(&error)),
        Err(_) => Err(HandshakeFailure::TimedOut(HANDSHAKE_DEADLINE)),
    }
}

/// Reads what was agreed on. TLS lets a peer that names no protocol through, so
/// that is refused here.
fn session(connection: &CommonState) -> Result<Session, HandshakeFailure> {
    if connection.alpn_protocol() != Some(ALPN) {
        return Err(HandshakeFailure::NoAlpn);
    }
    Ok(Session {
        peer: peer_identity(connection)?,
        version: provider::version_name(connection.protocol_version()),
        suite: provider::suite_name(connection.negotiated_cipher_suite()),
    })
}

#[cfg(test)]
mod tests;
