//! Mutual TLS between agents: handshakes that prove both identities, and what a
//! failed one means. The proxy calls [`accept`] and [`connect`] around the
//! sockets of tunnels; certificates come from [`crate::identity`].
//!
//! As in Istio ambient: client certificates required, ALPN `h2`,
//! no server name. Sessions are never resumed, there are no tickets and no early
//! data: a resumed session would skip the look at the peer's certificate.

mod config;
mod failure;
mod judge;
mod parameters;
mod provider;
mod session;
mod verify;

use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::identity::{Credential, SpiffeId};

pub use config::ConfigError;
pub(crate) use config::Configs;
pub use failure::{HandshakeFailure, RevocationFault, handshake_failure};
pub use parameters::{
    Parameters, ParametersStore, TlsSettingError, TlsSettings, TlsVersion, TlsWords,
};
pub use provider::{FipsStatus, fips_status};
pub(crate) use provider::{fill_random, provider, random_fraction};
pub use session::Session;
pub(crate) use verify::{Grounds, Verifier};

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

/// What a peer is in a handshake: it decides which purpose its certificate must
/// have (extended key usage, RFC 5280 §4.2.1.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

/// Accepts a tunnel for the holder of `credential`. The peer has proved to be
/// a workload of the same trust domain, or of another that is trusted, when this
/// returns.
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
    let (config, verifier) = credential.accepting()?;
    let handshake = TlsAcceptor::from(config).accept(io);
    let stream = within_deadline(handshake, &verifier).await?;
    let session = Session::of(stream.get_ref().1, &verifier, Role::Client)?;
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
    let (config, verifier) = credential.connecting(expected)?;
    let handshake = TlsConnector::from(config).connect(nobody, io);
    let stream = within_deadline(handshake, &verifier).await?;
    let session = Session::of(stream.get_ref().1, &verifier, Role::Server)?;
    Ok(Secured { stream, session })
}

/// What the verifier said of the peer goes before what TLS makes of it.
async fn within_deadline<S>(
    handshake: impl Future<Output = std::io::Result<S>>,
    verifier: &Verifier,
) -> Result<S, HandshakeFailure> {
    match tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(match verifier.verdict() {
            Some(Err(refusal)) => refusal.clone(),
            Some(Ok(_)) | None => handshake_failure(&error),
        }),
        Err(_) => Err(HandshakeFailure::TimedOut(HANDSHAKE_DEADLINE)),
    }
}

#[cfg(test)]
mod tests;
