//! A certificate authority's certificate with its key, ready to sign: an
//! intermediate from its directory, or a root.

use std::fmt;
use std::path::Path;
use std::time::SystemTime;

use rcgen::{CertificateParams, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{ParsedExtension, X509Certificate};

use super::layout::IssuerFiles;
use super::state::RootEntry;
use super::{CaError, MakeError, disk, pem};
use crate::identity::{KeyId, leaf};

/// Who signs.
pub(super) struct Signer {
    issuer: Issuer<'static, KeyPair>,
    key_id: KeyId,
    /// Its own certificate, then those above it but for the root.
    chain: Vec<CertificateDer<'static>>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Signer {
    /// An intermediate as its directory has it.
    pub(super) fn load(files: &IssuerFiles) -> Result<Self, CaError> {
        let (chain, key) = (files.chain(), files.key());
        let certificates = pem::certificates(&disk::read(&chain)?, &chain)?;
        Self::from_parts(certificates, &disk::read_key(&key)?, &chain, &key)
    }

    /// A root whose key is here.
    pub(super) fn load_root(
        root: &RootEntry,
        certificate_path: &Path,
        key_path: &Path,
    ) -> Result<Self, CaError> {
        let certificates = pem::certificates(&root.certificate, certificate_path)?;
        let key = disk::read_key(key_path)?;
        Self::from_parts(certificates, &key, certificate_path, key_path)
    }

    /// A signer from a chain, itself first, and its key in PEM. The paths are for
    /// errors.
    pub(super) fn from_parts(
        chain: Vec<CertificateDer<'static>>,
        key: &str,
        chain_path: &Path,
        key_path: &Path,
    ) -> Result<Self, CaError> {
        let unreadable = |path: &Path, expected| CaError::Unreadable {
            path: path.to_owned(),
            expected,
        };
        let own = chain
            .first()
            .ok_or_else(|| unreadable(chain_path, "a certificate in PEM"))?;
        let certificate =
            leaf::parse(own).map_err(|_| unreadable(chain_path, "an X.509 certificate"))?;
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(key, &PKCS_ECDSA_P256_SHA256)
            .map_err(|_| unreadable(key_path, "an ECDSA P-256 private key in PEM (PKCS #8)"))?;
        if certificate.public_key().raw != key.subject_public_key_info() {
            return Err(CaError::Mismatch {
                certificate: chain_path.to_owned(),
                key: key_path.to_owned(),
            });
        }
        let key_id =
            signing_key_id(&certificate).map_err(|expected| unreadable(chain_path, expected))?;
        let validity = certificate.validity();
        let time = |asn1| {
            leaf::system_time(asn1).map_err(|_| unreadable(chain_path, "a certificate of our time"))
        };
        let (not_before, not_after) = (time(validity.not_before)?, time(validity.not_after)?);
        let issuer = Issuer::from_ca_cert_der(own, key).map_err(|_| {
            unreadable(chain_path, "a CA certificate whose subject can be repeated")
        })?;
        Ok(Self {
            issuer,
            key_id,
            not_before,
            not_after,
            chain,
        })
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    pub(super) fn key_id(&self) -> &KeyId {
        &self.key_id
    }

    pub(super) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    pub(super) fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether half of its life is over.
    pub(super) fn is_past_half(&self, now: SystemTime) -> bool {
        let life = self.not_after.duration_since(self.not_before);
        now >= self.not_before + life.unwrap_or_default() / 2
    }

    /// Certifies a public key.
    pub(super) fn sign(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, MakeError> {
        Ok(params.signed_by(key, &self.issuer)?.into())
    }
}

/// The key identifier of a certificate that may sign certificates and lists.
fn signing_key_id(certificate: &X509Certificate<'_>) -> Result<KeyId, &'static str> {
    if !certificate.is_ca() {
        return Err("a CA certificate (basicConstraints CA:TRUE)");
    }
    let usage = certificate
        .key_usage()
        .map_err(|_| "a certificate with one key usage")?
        .ok_or("a CA certificate with a key usage (keyCertSign and cRLSign)")?;
    if !usage.value.key_cert_sign() || !usage.value.crl_sign() {
        return Err(
            "a CA certificate that may sign certificates and lists (keyCertSign and cRLSign)",
        );
    }
    let id = certificate
        .iter_extensions()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
            _ => None,
        })
        .filter(|id| !id.is_empty() && id.len() <= 64)
        .ok_or("a CA certificate with a subject key identifier (RFC 5280 §4.2.1.2)")?;
    Ok(KeyId::new(id))
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("key_id", &self.key_id)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}
