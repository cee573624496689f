//! What a failed handshake means. rustls's errors, and the alerts that a peer
//! sends back, become the few cases a person can act on. Used by [`super::accept`]
//! and [`super::connect`], and by whoever reads from a tunnel afterwards.

use std::io;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use super::VerificationError;
use crate::identity::{CredentialError, PeerIdentityError, SpiffeId, TrustDomain};

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
    /// The peer says to belong to another mesh.
    #[error("the peer presented {presented}, which is not of this mesh's trust domain {ours}")]
    ForeignTrustDomain {
        /// Our own trust domain.
        ours: TrustDomain,
        /// Who the peer says to be.
        presented: SpiffeId,
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
    #[error("the peer cannot do TLS 1.3 as this mesh does: {0:?}")]
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
        CertificateError::Other(other) => match other.0.downcast_ref::<VerificationError>() {
            Some(error) => from_verification(error.clone()),
            None => HandshakeFailure::Certificate(CertificateError::Other(other.clone())),
        },
        other => HandshakeFailure::Certificate(other.clone()),
    }
}

fn from_verification(error: VerificationError) -> HandshakeFailure {
    match error {
        VerificationError::WrongIdentity {
            expected,
            presented,
        } => HandshakeFailure::WrongIdentity {
            expected,
            presented,
        },
        VerificationError::ForeignTrustDomain { ours, presented } => {
            HandshakeFailure::ForeignTrustDomain { ours, presented }
        }
        VerificationError::Unidentified(error) => HandshakeFailure::Unidentified(error),
    }
}

/// What an alert of RFC 8446 §6.2 means between mesh peers.
fn alert_meaning(alert: AlertDescription) -> String {
    let meaning = match alert {
        AlertDescription::UnknownCA => "it does not trust the authority of our certificate",
        AlertDescription::CertificateExpired => "it finds our certificate expired",
        AlertDescription::CertificateRequired => "it got no certificate from us",
        AlertDescription::CertificateUnknown | AlertDescription::BadCertificate => {
            "it does not accept the identity in our certificate"
        }
        AlertDescription::NoApplicationProtocol => "it does not speak h2 (ALPN)",
        AlertDescription::ProtocolVersion => "it does not do TLS 1.3",
        _ => return format!("alert {alert:?}"),
    };
    format!("{meaning} (alert {alert:?})")
}
