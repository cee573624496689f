//! Who is let through a handshake: the chain must lead to a root of the trust
//! bundle and be valid now, and the leaf must name the right workload. Called
//! by rustls on both sides; no host name is ever compared.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};

use super::provider::provider;
use crate::identity::{PeerIdentityError, SpiffeId, TrustDomain, leaf_identity};

/// Why a certificate with a fine chain is refused all the same, or what the
/// holder of one with a foreign chain says to be. Found inside rustls's error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerificationError {
    /// Another workload answers at the destination's address.
    #[error("expected {expected}, the peer presented {presented}")]
    WrongIdentity {
        /// Whom the tunnel was meant for.
        expected: SpiffeId,
        /// Who answered.
        presented: SpiffeId,
    },
    /// The peer belongs to another mesh.
    #[error("the peer presented {presented}, which is not of trust domain {ours}")]
    ForeignTrustDomain {
        /// The trust domain of the pod that was called.
        ours: TrustDomain,
        /// Who the caller says to be.
        presented: SpiffeId,
    },
    /// The certificate identifies no workload.
    #[error(transparent)]
    Unidentified(#[from] PeerIdentityError),
}

/// The client's side: the server must be exactly the expected workload.
#[derive(Debug)]
pub(super) struct ExpectedServer {
    roots: Arc<RootCertStore>,
    expected: SpiffeId,
}

/// The server's side: the client must be a workload of the own trust domain.
#[derive(Debug)]
pub(super) struct OwnDomainClient {
    chain: Arc<dyn ClientCertVerifier>,
    ours: TrustDomain,
}

impl ExpectedServer {
    pub(super) fn new(roots: Arc<RootCertStore>, expected: SpiffeId) -> Self {
        Self { roots, expected }
    }
}

impl OwnDomainClient {
    pub(super) fn new(
        roots: Arc<RootCertStore>,
        ours: TrustDomain,
    ) -> Result<Self, VerifierBuilderError> {
        let chain =
            WebPkiClientVerifier::builder_with_provider(roots, provider().clone()).build()?;
        Ok(Self { chain, ours })
    }
}

impl ServerCertVerifier for ExpectedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let algorithms = provider().signature_verification_algorithms.all;
        let leaf = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &leaf,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )
        .map_err(|error| chain_error(error, end_entity, self.expected.trust_domain()))?;
        let presented = leaf_identity(end_entity).map_err(unidentified)?;
        if presented != self.expected {
            return Err(refused(VerificationError::WrongIdentity {
                expected: self.expected.clone(),
                presented,
            }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ClientCertVerifier for OwnDomainClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)
            .map_err(|error| chain_error(error, end_entity, &self.ours))?;
        let presented = leaf_identity(end_entity).map_err(unidentified)?;
        if *presented.trust_domain() != self.ours {
            return Err(foreign(&self.ours, presented));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Makes a failed chain say what an operator needs. A peer of another mesh has
/// another root as well, and its name says more than "unknown issuer". A chain
/// whose signature does not fit a root of the same name is an unknown issuer
/// too; it is kept apart from a handshake that is not signed with the leaf's key.
fn chain_error(error: Error, end_entity: &CertificateDer<'_>, ours: &TrustDomain) -> Error {
    let Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) =
        error
    else {
        return error;
    };
    match leaf_identity(end_entity) {
        Ok(presented) if presented.trust_domain() != ours => foreign(ours, presented),
        _ => CertificateError::UnknownIssuer.into(),
    }
}

fn foreign(ours: &TrustDomain, presented: SpiffeId) -> Error {
    let ours = ours.clone();
    refused(VerificationError::ForeignTrustDomain { ours, presented })
}

fn unidentified(error: PeerIdentityError) -> Error {
    refused(VerificationError::Unidentified(error))
}

fn refused(error: VerificationError) -> Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}
