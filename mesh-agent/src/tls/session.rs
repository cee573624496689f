//! What a handshake agreed on, and what the peer proved in it: kept with a tunnel,
//! for logs and policy, and to judge the peer again when trust changes.

use std::fmt;
use std::sync::Arc;

use rustls::CommonState;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::judge::Presented;
use super::verify::{Grounds, Verifier};
use super::{ALPN, HandshakeFailure, Role, provider};
use crate::identity::{PeerIdentityError, SpiffeId, Trust};

/// What a handshake agreed on, for logs and policy. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Session {
    /// The identity that the peer proved.
    pub peer: SpiffeId,
    /// The protocol version by its common name, `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite by its name at IANA.
    pub suite: &'static str,
    evidence: Arc<Evidence>,
}

/// What the peer proved itself with.
struct Evidence {
    chain: Vec<CertificateDer<'static>>,
    role: Role,
    expected: Option<SpiffeId>,
    at: UnixTime,
    grounds: Arc<Grounds>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Session {
    /// Reads what was agreed on. TLS lets a peer that names no protocol through, so
    /// that is refused here.
    pub(super) fn of(
        connection: &CommonState,
        verifier: &Verifier,
        role: Role,
    ) -> Result<Self, HandshakeFailure> {
        if connection.alpn_protocol() != Some(ALPN) {
            return Err(HandshakeFailure::NoAlpn);
        }
        let (Some(Ok(proof)), Some(chain)) = (verifier.verdict(), connection.peer_certificates())
        else {
            return Err(PeerIdentityError::NoCertificate.into());
        };
        Ok(Self {
            peer: proof.peer.clone(),
            version: provider::version_name(connection.protocol_version()),
            suite: provider::suite_name(connection.negotiated_cipher_suite()),
            evidence: Arc::new(Evidence {
                chain: chain.to_vec(),
                role,
                expected: verifier.expected().cloned(),
                at: proof.at,
                grounds: Arc::clone(verifier.grounds()),
                algorithms: verifier.algorithms(),
            }),
        })
    }

    /// Whether what the peer proved still holds under `trust`: its trust domain is
    /// trusted, a root vouches for its certificate, no list has revoked it, and it
    /// proves the same identity. It is judged at the time of the handshake, since a
    /// tunnel outlives its certificate. That nothing can be known of its revocation
    /// any more is no reason to cut: it was known in the handshake.
    ///
    /// Two signatures are checked, so run it when trust changed, not per request.
    ///
    /// # Errors
    /// Why the tunnel must end.
    pub fn still_trusted(&self, trust: &Trust) -> Result<(), HandshakeFailure> {
        let evidence = &*self.evidence;
        let Some((leaf, intermediates)) = evidence.chain.split_first() else {
            return Err(PeerIdentityError::NoCertificate.into());
        };
        let presented = Presented {
            leaf,
            intermediates,
            role: evidence.role,
        };
        let judged = evidence.grounds.judge(
            trust,
            evidence.expected.as_ref(),
            &evidence.algorithms,
            &presented,
            evidence.at,
        );
        match judged {
            Ok(peer) if peer == self.peer => Ok(()),
            Ok(presented) => Err(HandshakeFailure::WrongIdentity {
                expected: self.peer.clone(),
                presented,
            }),
            Err(HandshakeFailure::RevocationUnknown { .. }) => Ok(()),
            Err(failure) => Err(failure),
        }
    }
}

impl fmt::Debug for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Evidence")
            .field("role", &self.role)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}
