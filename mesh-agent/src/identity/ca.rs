//! The embedded certificate authority: one root in the state directory, which
//! signs certificates for the workloads of its trust domain. The agent opens it
//! when no other authority is configured.

mod disk;
mod error;
mod root;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroize;

use super::{
    BoxFuture, CertificateAuthority, Clock, IssueError, Issued, SpiffeId, Svid, SystemClock,
    TrustBundle, TrustDomain,
};
use crate::tls::fill_random;

pub use error::{CaError, SigningError};

/// Life of a workload's certificate, Istio's default.
const SVID_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// How far a certificate's validity starts in the past, for peers whose clock
/// is behind ours.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// A certificate authority on this machine. Agents that share its directory
/// share its root.
pub struct EmbeddedCa {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    root_not_after: SystemTime,
    trust_domain: TrustDomain,
    clock: Arc<dyn Clock>,
}

impl EmbeddedCa {
    /// Opens the authority in `state_dir` (made with mode 0700): `ca-key.pem`
    /// (0600) and `ca-cert.pem`. The first to come makes the root; agents that
    /// start at the same instant all end with that one.
    ///
    /// # Errors
    /// Files that others can write or read, that do not belong together, or a
    /// root of another trust domain or time. Each names the file and the cure.
    pub fn open(state_dir: &Path, trust_domain: &TrustDomain) -> Result<Self, CaError> {
        Self::open_with_clock(state_dir, trust_domain, Arc::new(SystemClock))
    }

    /// [`Self::open`] with another clock.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with_clock(
        state_dir: &Path,
        trust_domain: &TrustDomain,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CaError> {
        let now = clock.now();
        let stored = disk::open_or_create(state_dir, || root::make(trust_domain, now))?;
        Self::from_files(stored, trust_domain, clock)
    }

    /// The roots that vouch for what this authority signs.
    pub fn bundle(&self) -> TrustBundle {
        TrustBundle::new(self.trust_domain.clone(), vec![self.root.clone()])
    }

    fn from_files(
        stored: disk::Stored,
        trust_domain: &TrustDomain,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CaError> {
        let disk::Stored { files, pem } = stored;
        let unreadable = |path: &Path, expected| CaError::Unreadable {
            path: path.to_owned(),
            expected,
        };
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(&pem.key, &PKCS_ECDSA_P256_SHA256)
            .map_err(|_| unreadable(&files.key, "an ECDSA P-256 private key in PEM (PKCS #8)"))?;
        let not_a_root = || unreadable(&files.certificate, "a CA certificate in PEM");
        let root =
            CertificateDer::from_pem_slice(pem.certificate.as_bytes()).map_err(|_| not_a_root())?;
        let root_not_after = root::check(&root, &key, &files, trust_domain, clock.now())?;
        let issuer = Issuer::from_ca_cert_der(&root, key).map_err(|_| not_a_root())?;
        Ok(Self {
            issuer,
            root,
            root_not_after,
            trust_domain: trust_domain.clone(),
            clock,
        })
    }

    fn sign(&self, id: &SpiffeId) -> Result<Issued, SigningError> {
        if *id.trust_domain() != self.trust_domain {
            return Err(SigningError::OtherTrustDomain {
                id: id.clone(),
                ours: self.trust_domain.clone(),
            });
        }
        let now = self.clock.now();
        if now > self.root_not_after {
            return Err(SigningError::RootExpired(self.root_not_after));
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri(&id.to_string())?];
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + SVID_LIFETIME).min(self.root_not_after).into();
        params.serial_number = Some(random_serial()?);
        params.is_ca = IsCa::ExplicitNoCa;
        // Not keyEncipherment, which is for RSA key exchange.
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;

        let mut key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let signed = params.signed_by(&key, &self.issuer);
        let pkcs8 = PrivatePkcs8KeyDer::from(key.serialize_der());
        key.zeroize();
        let svid = Svid::new(vec![signed?.into()], PrivateKeyDer::from(pkcs8))?;
        Ok(Issued { svid, bundle: None })
    }
}

impl CertificateAuthority for EmbeddedCa {
    fn source(&self, _: &SpiffeId) -> Arc<str> {
        "embedded CA".into()
    }

    fn issue<'a>(&'a self, id: &'a SpiffeId) -> BoxFuture<'a, Result<Issued, IssueError>> {
        Box::pin(async move {
            self.sign(id).map_err(|error| IssueError::Authority {
                id: id.clone(),
                source: Arc::new(error),
            })
        })
    }
}

/// A random serial number of 126 bits: unique without a register, positive and
/// always 16 bytes long (RFC 5280 §4.1.2.2 allows 20).
fn random_serial() -> Result<SerialNumber, SigningError> {
    let mut bytes = [0; 16];
    fill_random(&mut bytes).map_err(|_| SigningError::NoRandomness)?;
    bytes[0] = bytes[0] & 0x3f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn uri(text: &str) -> Result<SanType, SigningError> {
    Ok(SanType::URI(text.try_into()?))
}

impl fmt::Debug for EmbeddedCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedCa")
            .field("trust_domain", &self.trust_domain)
            .field("root_not_after", &self.root_not_after)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
