//! What a handshake agreed on, and what the peer proved in it: kept with a tunnel,
//! for logs and policy, and to judge the peer again when trust changes.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::CommonState;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::judge::Presented;
use super::verify::{Grounds, RootsUsed, Verifier};
use super::{ALPN, HandshakeFailure, Role, provider};
use crate::identity::{PeerIdentityError, SpiffeId, Trust, leaf};

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
    /// End of the peer's certificate.
    not_after: SystemTime,
    grounds: Arc<Grounds>,
    /// The roots that there were for the peer's trust domain.
    roots: RootsUsed,
    algorithms: WebPkiSupportedAlgorithms,
    /// Number of the trust under which it was last found to hold.
    holds_under: AtomicU64,
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
        let leaf = chain.first().ok_or(PeerIdentityError::NoCertificate)?;
        let not_after = leaf::end(leaf)?;
        Ok(Self {
            peer: proof.peer.clone(),
            version: provider::version_name(connection.protocol_version()),
            suite: provider::suite_name(connection.negotiated_cipher_suite()),
            evidence: Arc::new(Evidence {
                chain: chain.to_vec(),
                role,
                expected: verifier.expected().cloned(),
                at: proof.at,
                not_after,
                grounds: Arc::clone(verifier.grounds()),
                roots: proof.roots.clone(),
                algorithms: verifier.algorithms(),
                holds_under: AtomicU64::new(proof.trust),
            }),
        })
    }

    /// Whether the peer's certificate has ended by `now`. What it opened goes on, and
    /// it is good for nothing new.
    pub fn has_expired(&self, now: SystemTime) -> bool {
        self.evidence.not_after < now
    }

    /// Time from `now` until the peer should prove itself again, so that its certificate does
    /// not expire while it opens streams: when between 80 and 90 % of the time is over that
    /// the certificate had left in the handshake, as `spread` says (0 to 1). Its holder has
    /// renewed it by then: ztunnel and we do that at half of its life.
    pub fn time_to_renew(&self, now: SystemTime, spread: f64) -> Duration {
        let evidence = &*self.evidence;
        let began = UNIX_EPOCH + Duration::from_secs(evidence.at.as_secs());
        let left = evidence.not_after.duration_since(began).unwrap_or_default();
        let renew = began + left.mul_f64(0.8 + 0.1 * spread);
        renew.duration_since(now).unwrap_or_default()
    }

    /// Whether the roots of the peer's trust domain under `trust` are those of the handshake.
    pub fn has_roots_of(&self, trust: &Trust) -> bool {
        let evidence = &*self.evidence;
        evidence.roots == evidence.grounds.roots(trust, self.peer.trust_domain())
    }

    /// [`Self::still_trusted`], looked up where `trust` is what it was last found to
    /// hold under: cheap enough for every stream.
    ///
    /// # Errors
    /// Why the tunnel must end.
    pub fn confirm(&self, trust: &Trust, now: SystemTime) -> Result<(), HandshakeFailure> {
        let holds_under = &self.evidence.holds_under;
        if holds_under.load(Ordering::Relaxed) == trust.number() {
            return Ok(());
        }
        self.still_trusted(trust, now)?;
        holds_under.store(trust.number(), Ordering::Relaxed);
        Ok(())
    }

    /// Whether what the peer proved still holds under `trust`: its trust domain is
    /// trusted, a root vouches for its certificate, no list has revoked it, and it
    /// proves the same identity. It is judged at the time of the handshake, since a
    /// tunnel outlives its certificate. That nothing can be known of its revocation
    /// any more is no reason to cut: it was known in the handshake. Nor is it that a
    /// root left which vouched for a certificate that has ended by `now`: that is how a
    /// root is replaced in good order. One that leaves before is one to distrust.
    ///
    /// Two signatures are checked, so run it when trust changed, not per request.
    ///
    /// # Errors
    /// Why the tunnel must end.
    pub fn still_trusted(&self, trust: &Trust, now: SystemTime) -> Result<(), HandshakeFailure> {
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
            Err(HandshakeFailure::UntrustedRoot) if self.has_expired(now) => Ok(()),
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
