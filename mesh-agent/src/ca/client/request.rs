//! One certificate: the key and the CSR that go out, and what is required of the answer.

use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::parse_x509_certificate;
use zeroize::Zeroize;

use crate::ca::api::{CertificateRequest, CertificateResponse};
use crate::identity::{SpiffeId, Svid, SvidError, display_time};

/// What [`super::RemoteCa`] gets back.
pub(super) type Answer = CertificateResponse;

/// Most certificates of an answer, roots among them. Longer chains than a leaf, a few
/// intermediates and a few roots are nobody's intention, and peers would have to check
/// them in every handshake.
const MAX_CERTIFICATES: usize = 16;

/// How far an authority's clock may be ahead of ours. Ours backdates by as much.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// Why an answer is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// No key or CSR could be made, so nothing was asked.
    #[error("no key and certificate request could be made: {0}")]
    NoRequest(String),
    /// Nothing in it.
    #[error("it holds no certificate")]
    Empty,
    /// A part that is not a certificate.
    #[error("it holds what is not a certificate in PEM")]
    NotPem,
    /// Longer than any sensible chain.
    #[error("it holds more than {MAX_CERTIFICATES} certificates")]
    TooLong,
    /// The leaf cannot be a workload's.
    #[error(transparent)]
    Leaf(#[from] SvidError),
    /// Somebody else's certificate.
    #[error("it certifies {got}, where {wanted} was asked for")]
    OtherIdentity {
        /// What was asked for.
        wanted: SpiffeId,
        /// What the certificate says.
        got: SpiffeId,
    },
    /// The certificate of another key.
    #[error("the certificate is not of the key that was sent")]
    OtherKey,
    /// Its time is over.
    #[error("the certificate expired at {0}: compare the clocks of the authority and this node")]
    Expired(String),
    /// Its time is to come.
    #[error(
        "the certificate is valid only from {0}: compare the clocks of the authority and this node"
    )]
    NotYetValid(String),
}

/// A key that waits for its certificate.
pub(super) struct Pending {
    key: KeyPair,
    csr: String,
}

impl Pending {
    pub(super) fn new(id: &SpiffeId) -> Result<Self, AnswerError> {
        let failed = |error: rcgen::Error| AnswerError::NoRequest(error.to_string());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let uri = id.to_string().try_into().map_err(failed)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        let mut key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        match params.serialize_request(&key).and_then(|csr| csr.pem()) {
            Ok(csr) => Ok(Self { key, csr }),
            Err(error) => {
                key.zeroize();
                Err(failed(error))
            }
        }
    }

    pub(super) fn message(&self, id: &SpiffeId, lifetime: Option<Duration>) -> CertificateRequest {
        // 0 leaves it to the authority.
        let seconds = lifetime.map_or(0, |lifetime| lifetime.as_secs());
        CertificateRequest {
            validity_duration: i64::try_from(seconds).unwrap_or(i64::MAX),
            ..CertificateRequest::new(self.csr.clone(), &id.to_string())
        }
    }

    /// The answer as an SVID. Roots in it are left out; whether the chain leads to one
    /// that counts is checked where it is taken into use, against the trust in force.
    pub(super) fn accept(
        self,
        answer: Answer,
        id: &SpiffeId,
        now: SystemTime,
    ) -> Result<Svid, AnswerError> {
        let chain = chain(&answer.cert_chain)?;
        let leaf = chain.first().ok_or(AnswerError::Empty)?;
        if public_key(leaf)? != self.key.subject_public_key_info() {
            return Err(AnswerError::OtherKey);
        }
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let svid = Svid::new(chain, key)?;
        if svid.id() != id {
            return Err(AnswerError::OtherIdentity {
                wanted: id.clone(),
                got: svid.id().clone(),
            });
        }
        if svid.not_after() < now {
            return Err(AnswerError::Expired(display_time(svid.not_after())));
        }
        if svid.not_before() > now + CLOCK_SKEW {
            return Err(AnswerError::NotYetValid(display_time(svid.not_before())));
        }
        Ok(svid)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// The leaf and the intermediates. An element may hold several certificates, as that
/// with the roots does.
fn chain(elements: &[String]) -> Result<Vec<CertificateDer<'static>>, AnswerError> {
    let mut chain = Vec::new();
    for element in elements {
        let mut any = false;
        for certificate in CertificateDer::pem_slice_iter(element.as_bytes()) {
            chain.push(certificate.map_err(|_| AnswerError::NotPem)?);
            any = true;
            if chain.len() > MAX_CERTIFICATES {
                return Err(AnswerError::TooLong);
            }
        }
        if !any {
            return Err(AnswerError::NotPem);
        }
    }
    let mut kept = Vec::with_capacity(chain.len());
    for (position, der) in chain.into_iter().enumerate() {
        let (_, certificate) = parse_x509_certificate(&der).map_err(|_| AnswerError::NotPem)?;
        let root = certificate.subject() == certificate.issuer();
        if position == 0 || !root {
            kept.push(der);
        }
    }
    Ok(kept)
}

fn public_key<'a>(der: &'a CertificateDer<'_>) -> Result<&'a [u8], AnswerError> {
    let (_, certificate) = parse_x509_certificate(der).map_err(|_| AnswerError::NotPem)?;
    Ok(certificate.tbs_certificate.subject_pki.raw)
}

#[cfg(test)]
mod tests;
