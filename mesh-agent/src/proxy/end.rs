//! How a connection's end is named: from the errors of the modules on its way to
//! the stable reasons of the access log.

use std::fmt;

use super::dial::{DialError, TunnelError};
use crate::budget::OverLimit;
use crate::identity::CredentialError;
use crate::observe::{Connection, Outcome, Reason};
use crate::policy::Denial;
use crate::relay::{RelayCause, RelayEnd};
use crate::tls::HandshakeFailure;

/// Why a connection did not come about.
pub(super) struct Failure {
    outcome: Outcome,
    detail: Option<String>,
    after_handshake: bool,
    is_unanswered: bool,
}

impl Failure {
    pub(super) fn denied(reason: Reason, detail: impl fmt::Display) -> Self {
        Self {
            outcome: Outcome::Denied(reason),
            detail: Some(detail.to_string()),
            after_handshake: false,
            is_unanswered: false,
        }
    }

    pub(super) fn failed(reason: Reason, detail: impl fmt::Display) -> Self {
        Self {
            outcome: Outcome::Failed(reason),
            detail: Some(detail.to_string()),
            after_handshake: false,
            is_unanswered: false,
        }
    }

    /// A failure that its reason says in full.
    pub(super) fn refused(reason: Reason) -> Self {
        Self {
            outcome: Outcome::Failed(reason),
            detail: None,
            after_handshake: false,
            is_unanswered: false,
        }
    }

    /// The agent ended the connection before it stood.
    pub(super) fn cut(record: &Connection) -> Self {
        Self {
            outcome: cut(record),
            detail: None,
            after_handshake: false,
            is_unanswered: false,
        }
    }

    /// The destination had proved its identity when this happened.
    pub(super) fn after_handshake(self) -> Self {
        Self {
            after_handshake: true,
            ..self
        }
    }

    /// Whether the destination had proved its identity when this happened.
    pub(super) fn came_after_handshake(&self) -> bool {
        self.after_handshake
    }

    /// Nothing at all came back from the destination.
    pub(super) fn unanswered(self) -> Self {
        Self {
            is_unanswered: true,
            ..self
        }
    }

    /// Whether nothing at all came back from the destination.
    pub(super) fn is_unanswered(&self) -> bool {
        self.is_unanswered
    }

    /// The same failure with more to its detail.
    pub(super) fn with_note(self, note: impl fmt::Display) -> Self {
        let detail = match self.detail {
            Some(detail) => format!("{detail}. {note}"),
            None => note.to_string(),
        };
        Self {
            detail: Some(detail),
            ..self
        }
    }

    /// Whether nothing listened where the destination's agent should.
    pub(super) fn is_refused(&self) -> bool {
        matches!(self.outcome, Outcome::Failed(Reason::UpstreamRefused))
    }

    /// The reason, if another endpoint of the same service may do better. One of policy is
    /// none of these: it is not to be gone around. An endpoint whose pod is not known yet is.
    pub(super) fn another_may_answer(&self) -> Option<Reason> {
        match self.outcome {
            Outcome::Denied(reason @ Reason::DestinationUnknown)
            | Outcome::Failed(
                reason @ (Reason::UpstreamRefused
                | Reason::UpstreamUnreachable
                | Reason::UpstreamTimeout
                | Reason::UpstreamWrongIdentity
                | Reason::UpstreamTls
                | Reason::UpstreamRejected
                | Reason::PoolExhausted
                | Reason::TunnelLost
                | Reason::AppRefused),
            ) => Some(reason),
            _ => None,
        }
    }

    /// Closes the connection's account with this.
    pub(super) fn record(self, record: Connection) {
        match self.detail {
            Some(detail) => record.finish_with(self.outcome, detail),
            None => record.finish(self.outcome),
        }
    }
}

/// Closes the account of a connection that was carried. One that was cut may see its
/// tunnel go first, which is cut right after it: what counts is why it was cut.
pub(super) fn outcome(end: RelayEnd, record: Connection) {
    match (end.cause, record.cut_reason()) {
        (RelayCause::Finished, _) => record.finish(Outcome::Ok),
        (_, Some(reason)) => record.finish(Outcome::Cut(reason)),
        (RelayCause::Cut, None) => record.finish(Outcome::Cut(Reason::Shutdown)),
        (RelayCause::AppReset, None) => record.finish(Outcome::Failed(Reason::AppReset)),
        (RelayCause::PeerReset, None) => record.finish(Outcome::Failed(Reason::PeerReset)),
        (RelayCause::TunnelLost, None) => record.finish(Outcome::Failed(Reason::TunnelLost)),
        (RelayCause::OverLimit(over), None) => {
            record.finish_with(Outcome::Cut(Reason::PodLimit), over);
        }
        (RelayCause::Io(error), None) => {
            record.finish_with(Outcome::Failed(Reason::PeerReset), error);
        }
    }
}

fn cut(record: &Connection) -> Outcome {
    Outcome::Cut(record.cut_reason().unwrap_or(Reason::Shutdown))
}

impl From<DialError> for Failure {
    fn from(error: DialError) -> Self {
        let reason = match &error {
            DialError::Refused { .. } => Reason::UpstreamRefused,
            DialError::TimedOut { .. } => Reason::UpstreamTimeout,
            DialError::Unreachable { .. } => Reason::UpstreamUnreachable,
            DialError::ClientUnpublished { .. } => Reason::ClientUnpublished,
            DialError::OverLimit(_) => Reason::PodLimit,
            DialError::NoSocket(cause) if out_of_descriptors(cause) => Reason::FdLimit,
            DialError::NoSocket(_) => Reason::UpstreamUnreachable,
        };
        Self::failed(reason, error)
    }
}

fn out_of_descriptors(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// The pod holds what it may.
impl From<OverLimit> for Failure {
    fn from(over: OverLimit) -> Self {
        Self::denied(Reason::PodLimit, over)
    }
}

impl From<CredentialError> for Failure {
    fn from(error: CredentialError) -> Self {
        Self::failed(Reason::NoCredential, error)
    }
}

impl From<Denial> for Failure {
    fn from(denial: Denial) -> Self {
        Self::denied(denial.reason(), denial)
    }
}

/// A handshake that a tunnel's client failed.
impl From<HandshakeFailure> for Failure {
    fn from(failure: HandshakeFailure) -> Self {
        let reason = match &failure {
            HandshakeFailure::NoClientCertificate => Reason::TlsNoClientCert,
            HandshakeFailure::ForeignTrustDomain { .. }
            | HandshakeFailure::ForeignIntermediate { .. } => Reason::TlsForeignTrustDomain,
            HandshakeFailure::Revoked { .. } => Reason::PeerRevoked,
            HandshakeFailure::RevocationUnknown { .. } => Reason::RevocationUnknown,
            HandshakeFailure::Credential(_) => Reason::NoCredential,
            _ => Reason::TlsHandshake,
        };
        Self::denied(reason, failure)
    }
}

impl From<&TunnelError> for Failure {
    fn from(error: &TunnelError) -> Self {
        let reason = match error {
            TunnelError::Dial(DialError::Refused { .. }) => Reason::UpstreamRefused,
            TunnelError::Dial(DialError::TimedOut { .. }) | TunnelError::Silent { .. } => {
                Reason::UpstreamTimeout
            }
            TunnelError::Dial(DialError::OverLimit(_)) => Reason::PodLimit,
            TunnelError::Dial(DialError::NoSocket(cause)) if out_of_descriptors(cause) => {
                Reason::FdLimit
            }
            TunnelError::Dial(_) => Reason::UpstreamUnreachable,
            TunnelError::Handshake {
                failure: HandshakeFailure::WrongIdentity { .. } | HandshakeFailure::WrongName { .. },
                ..
            } => Reason::UpstreamWrongIdentity,
            TunnelError::Handshake {
                failure: HandshakeFailure::Revoked { .. },
                ..
            } => Reason::PeerRevoked,
            TunnelError::Handshake {
                failure: HandshakeFailure::RevocationUnknown { .. },
                ..
            } => Reason::RevocationUnknown,
            TunnelError::Handshake {
                failure: HandshakeFailure::TimedOut(_),
                ..
            } => Reason::UpstreamTimeout,
            TunnelError::Handshake {
                failure: HandshakeFailure::Credential(_),
                ..
            } => Reason::NoCredential,
            TunnelError::Handshake { .. } => Reason::UpstreamTls,
            TunnelError::NoCredential(_) => Reason::NoCredential,
        };
        let failure = Self::failed(reason, error);
        match error {
            TunnelError::Silent { .. } => failure.unanswered(),
            _ => failure,
        }
    }
}
