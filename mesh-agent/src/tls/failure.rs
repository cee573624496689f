//! What a failed handshake means. rustls's errors, and the alerts that a peer
//! sends back, become the few cases a person can act on. Used by [`super::accept`]
//! and [`super::connect`], and by whoever reads from a tunnel afterwards.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::{AlertDescription, CertificateError, Error, OtherError, PeerIncompatible};

use crate::identity::{CredentialError, PeerIdentityError, SpiffeId, TrustDomain, display_time};

/// Why a handshake failed. What the peer refused about us is
/// [`Self::RefusedByPeer`]; everything else but [`Self::Credential`] is what we
/// refused about the peer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HandshakeFailure {
    /// Another workload answers at the destination's address, as when a pod's
    /// IP was given to another pod.
    #[error("wrong identity: expected {expected}, the peer presented {presented}")]
    WrongIdentity {
        /// Whom the tunnel was meant for.
        expected: SpiffeId,
        /// Who answered.
        presented: SpiffeId,
    },
    /// A peer with DNS names instead of an identity, and not the expected ones.
    #[error(
        "wrong identity: expected {expected}, and the peer presented a certificate with the DNS \
         names {presented}, none of which {expected} may prove itself with"
    )]
    WrongName {
        /// Whom the tunnel was meant for.
        expected: SpiffeId,
        /// The names in the certificate that came.
        presented: String,
    },
    /// The peer says to belong to a mesh that nobody here trusts.
    #[error(
        "the peer presented {presented}, which is neither of this mesh's trust domain {ours} nor \
         of another that it trusts"
    )]
    ForeignTrustDomain {
        /// Our own trust domain.
        ours: TrustDomain,
        /// Who the peer says to be.
        presented: SpiffeId,
    },
    /// An intermediate of another mesh signed for a workload of this trust domain.
    #[error(
        "the certificate of {peer} is signed by the intermediate of {issuer}, which vouches for \
         that trust domain alone"
    )]
    ForeignIntermediate {
        /// Who the peer says to be.
        peer: SpiffeId,
        /// The SPIFFE URI of the intermediate.
        issuer: String,
    },
    /// The peer's certificate identifies no workload.
    #[error(transparent)]
    Unidentified(#[from] PeerIdentityError),
    /// The peer's certificate leads to no root of ours: it has another CA.
    #[error("the peer's certificate is not signed by an authority that this mesh trusts")]
    UntrustedRoot,
    /// The peer's certificate has expired: its renewal, or a clock, is broken.
    #[error("the peer's certificate has expired")]
    Expired,
    /// The peer's certificate is of the future: a clock is wrong.
    #[error("the peer's certificate is not valid yet: compare the clocks of the nodes")]
    NotYetValid,
    /// The peer's authority took the certificate back.
    #[error("the certificate of {peer} (serial {serial}) was revoked by its authority")]
    Revoked {
        /// Whose certificate it is.
        peer: SpiffeId,
        /// Its serial number, lower-case hex.
        serial: String,
    },
    /// Whether the peer's certificate was revoked is not to be known here.
    #[error("whether the certificate of {peer} was revoked is not known: {why}")]
    RevocationUnknown {
        /// Whose certificate it is.
        peer: SpiffeId,
        /// What keeps us from knowing it.
        why: RevocationFault,
    },
    /// Any other fault of the peer's certificate, such as a CA's own.
    #[error("the peer's certificate is not acceptable: {0}")]
    Certificate(CertificateError),
    /// The client did not identify itself.
    #[error("the client presented no certificate, which mutual TLS requires")]
    NoClientCertificate,
    /// The peer speaks TLS, but not for HTTP/2.
    #[error("the peer does not offer the protocol h2 (ALPN), so it is no mesh peer")]
    NoAlpn,
    /// The peer and we have no version, cipher suite or key exchange in common.
    #[error(
        "the peer and this mesh's TLS settings have no version, cipher suite or key exchange in common: {0:?}"
    )]
    Incompatible(PeerIncompatible),
    /// What came is not TLS.
    #[error("the peer does not speak TLS")]
    NotTls,
    /// The peer ended the handshake with an alert.
    #[error("the peer refused the handshake: {}", alert_meaning(*.0))]
    RefusedByPeer(AlertDescription),
    /// The peer closed or reset the connection in the middle.
    #[error("the peer broke off the handshake: {0}")]
    BrokenOff(io::ErrorKind),
    /// The peer did not finish in time.
    #[error("the handshake did not finish within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// Our own certificate cannot be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The peer broke the rules of TLS.
    #[error("the peer broke the TLS protocol: {0}")]
    Protocol(Error),
}

/// Why it cannot be said whether a certificate was revoked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevocationFault {
    /// The list was due to be replaced, and no newer one came.
    #[error(
        "the revocation list of its issuer is out of date since {}: look at the authority, and at \
         the way from it to this node", display_time(*.0)
    )]
    Stale(SystemTime),
    /// There should be a list, and it cannot be used: why.
    #[error("the revocation list cannot be used: {0}")]
    Unreadable(Arc<str>),
    /// The trust domain has lists, and none is of the certificate's issuer.
    #[error("its trust domain publishes revocation lists, and none of them is of its issuer")]
    NoList,
}

/// Reads an I/O error of a TLS stream, during the handshake or at the first
/// read after it, where TLS 1.3 lets a client learn that it was refused.
pub fn handshake_failure(error: &io::Error) -> HandshakeFailure {
    let inner = error.get_ref();
    match inner.and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(tls) => tls.into(),
        None => HandshakeFailure::BrokenOff(error.kind()),
    }
}

impl From<&Error> for HandshakeFailure {
    fn from(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(error) => from_certificate(error),
            Error::NoCertificatesPresented => Self::NoClientCertificate,
            Error::NoApplicationProtocol => Self::NoAlpn,
            Error::PeerIncompatible(why) => Self::Incompatible(why.clone()),
            Error::InvalidMessage(_) | Error::PeerSentOversizedRecord => Self::NotTls,
            Error::AlertReceived(alert) => Self::RefusedByPeer(*alert),
            other => Self::Protocol(other.clone()),
        }
    }
}

fn from_certificate(error: &CertificateError) -> HandshakeFailure {
    match error {
        CertificateError::UnknownIssuer => HandshakeFailure::UntrustedRoot,
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            HandshakeFailure::Expired
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            HandshakeFailure::NotYetValid
        }
        CertificateError::Other(other) => match other.0.downcast_ref::<HandshakeFailure>() {
            Some(failure) => failure.clone(),
            None => HandshakeFailure::Certificate(CertificateError::Other(other.clone())),
        },
        other => HandshakeFailure::Certificate(other.clone()),
    }
}

impl HandshakeFailure {
    /// The same for rustls, which chooses the alert by it (RFC 8446 §6.2). It has no
    /// room for whose certificate and why, so the verifiers keep that beside it.
    pub(super) fn to_rustls(&self) -> Error {
        match self {
            Self::UntrustedRoot => CertificateError::UnknownIssuer,
            Self::Expired => CertificateError::Expired,
            Self::NotYetValid => CertificateError::NotValidYet,
            Self::Revoked { .. } => CertificateError::Revoked,
            Self::RevocationUnknown { why, .. } => match why {
                RevocationFault::Stale(_) => CertificateError::ExpiredRevocationList,
                RevocationFault::Unreadable(_) | RevocationFault::NoList => {
                    CertificateError::UnknownRevocationStatus
                }
            },
            Self::Certificate(error) => error.clone(),
            other => CertificateError::Other(OtherError(Arc::new(other.clone()))),
        }
        .into()
    }
}

/// What an alert of RFC 8446 §6.2 means between mesh peers.
fn alert_meaning(alert: AlertDescription) -> String {
    let meaning = match alert {
        AlertDescription::UnknownCA => {
            "it does not trust the authority of our certificate, or cannot learn whether that was \
             revoked"
        }
        AlertDescription::CertificateRevoked => {
            "it knows our certificate as revoked: a new one is needed, if the authority gives one"
        }
        AlertDescription::CertificateExpired => "it finds our certificate expired",
        AlertDescription::CertificateRequired => "it got no certificate from us",
        AlertDescription::CertificateUnknown | AlertDescription::BadCertificate => {
            "it does not accept the identity in our certificate"
        }
        AlertDescription::NoApplicationProtocol => "it does not speak h2 (ALPN)",
        AlertDescription::ProtocolVersion => {
            "it does none of the TLS versions that our settings allow"
        }
        _ => return format!("alert {alert:?}"),
    };
    format!("{meaning} (alert {alert:?})")
}
