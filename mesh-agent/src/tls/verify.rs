//! The verifiers that rustls calls on both sides of a handshake: one for each
//! handshake, which asks [`super::judge`] under the trust in force at that moment
//! and keeps the answer. No host name is ever compared.

use std::fmt;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::judge::{Measure, Presented, judge};
use super::{HandshakeFailure, Role};
use crate::identity::{Anchors, SpiffeId, Trust, TrustDomain, TrustStore};

/// What all handshakes with one certificate judge peers by.
pub(crate) struct Grounds {
    trust: Arc<TrustStore>,
    /// The certificate's trust domain.
    own: TrustDomain,
    /// The roots for it that the certificate in use brought, if it did.
    own_roots: ArcSwapOption<Anchors>,
}

/// Judges the peer of one handshake.
pub(crate) struct Verifier {
    grounds: Arc<Grounds>,
    /// The one workload that may answer; `None` where we are the server.
    expected: Option<SpiffeId>,
    algorithms: WebPkiSupportedAlgorithms,
    verdict: OnceLock<Result<Proof, HandshakeFailure>>,
}

/// What a peer has proved.
#[derive(Clone, Debug)]
pub(crate) struct Proof {
    pub(super) peer: SpiffeId,
    /// When: the time on our clock.
    pub(super) at: UnixTime,
    /// Number of the trust that it was judged by.
    pub(super) trust: u64,
    pub(super) roots: RootsUsed,
}

/// The roots that could vouch for a peer, to tell whether they changed since.
#[derive(Clone, Debug, Default)]
pub(crate) struct RootsUsed {
    told: Option<Arc<Anchors>>,
    brought: Option<Arc<Anchors>>,
}

impl PartialEq for RootsUsed {
    fn eq(&self, other: &Self) -> bool {
        let same = |one: &Option<Arc<Anchors>>, other: &Option<Arc<Anchors>>| match (one, other) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other) || one.all() == other.all(),
            (None, None) => true,
            _ => false,
        };
        same(&self.told, &other.told) && same(&self.brought, &other.brought)
    }
}

impl Grounds {
    pub(crate) fn new(trust: Arc<TrustStore>, own: TrustDomain) -> Arc<Self> {
        Arc::new(Self {
            trust,
            own,
            own_roots: ArcSwapOption::empty(),
        })
    }

    /// The roots that the certificate in use brought.
    pub(crate) fn own_roots(&self) -> Option<Arc<Anchors>> {
        self.own_roots.load_full()
    }

    /// Exchanges them with the certificate.
    pub(crate) fn bring(&self, own_roots: Option<Arc<Anchors>>) {
        self.own_roots.store(own_roots);
    }

    /// The roots for `domain` at this moment.
    pub(super) fn roots(&self, trust: &Trust, domain: &TrustDomain) -> RootsUsed {
        let brought = self.own_roots().filter(|_| *domain == self.own);
        RootsUsed {
            told: trust.anchors(domain).cloned(),
            brought,
        }
    }

    /// [`judge`] under these grounds, and `trust`.
    pub(super) fn judge(
        &self,
        trust: &Trust,
        expected: Option<&SpiffeId>,
        algorithms: &WebPkiSupportedAlgorithms,
        presented: &Presented<'_>,
        now: UnixTime,
    ) -> Result<SpiffeId, HandshakeFailure> {
        let own_roots = self.own_roots.load();
        let measure = Measure {
            trust,
            own: &self.own,
            own_roots: own_roots.as_deref(),
            expected,
            algorithms,
        };
        judge(&measure, presented, now)
    }
}

impl Verifier {
    pub(super) fn new(
        grounds: Arc<Grounds>,
        expected: Option<SpiffeId>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Arc<Self> {
        Arc::new(Self {
            grounds,
            expected,
            algorithms,
            verdict: OnceLock::new(),
        })
    }

    /// What became of the peer's certificate; `None` where none was looked at.
    pub(super) fn verdict(&self) -> Option<&Result<Proof, HandshakeFailure>> {
        self.verdict.get()
    }

    pub(super) fn grounds(&self) -> &Arc<Grounds> {
        &self.grounds
    }

    pub(super) fn expected(&self) -> Option<&SpiffeId> {
        self.expected.as_ref()
    }

    pub(super) fn algorithms(&self) -> WebPkiSupportedAlgorithms {
        self.algorithms
    }

    fn verify(&self, presented: &Presented<'_>, now: UnixTime) -> Result<(), Error> {
        let trust = self.grounds.trust.current();
        let judged = self.grounds.judge(
            &trust,
            self.expected.as_ref(),
            &self.algorithms,
            presented,
            now,
        );
        let verdict = judged.map(|peer| Proof {
            roots: self.grounds.roots(&trust, peer.trust_domain()),
            peer,
            at: now,
            trust: trust.number(),
        });
        let answer = match &verdict {
            Ok(_) => Ok(()),
            Err(failure) => Err(failure.to_rustls()),
        };
        // rustls asks once in a handshake; should it ask again, the first answer is
        // the one that was acted on.
        let _ = self.verdict.set(verdict);
        answer
    }

    fn signed_12(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn signed_13(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let presented = Presented {
            leaf: end_entity,
            intermediates,
            role: Role::Server,
        };
        self.verify(&presented, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed_12(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed_13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    /// None: a client of the mesh has one certificate and needs no hint which to
    /// send, and the list would tell strangers whom this mesh trusts.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let presented = Presented {
            leaf: end_entity,
            intermediates,
            role: Role::Client,
        };
        self.verify(&presented, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed_12(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed_13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for Grounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grounds")
            .field("own", &self.own)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}
