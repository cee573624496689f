//! What an authority hands out: a workload's certificate with its key, and the
//! roots to trust. Made by a [`super::CertificateAuthority`], consumed by the
//! store, which turns them into TLS configurations.

use std::fmt;
use std::time::SystemTime;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::leaf::{self, Claim, Leaf};
use super::trust::name_matches;
use super::{KeyId, PeerIdentityError, SpiffeId, TrustDomain};

/// An X.509-SVID: certificate chain and private key of one workload identity.
/// The key lives in memory only, is wiped when this is dropped, and appears in
/// no `Debug` output.
pub struct Svid {
    leaf: Leaf,
    chain: Vec<CertificateDer<'static>>,
    key: Zeroizing<PrivateKeyDer<'static>>,
}

/// Why certificates cannot serve as an SVID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// There is no certificate at all.
    #[error("the certificate chain is empty")]
    EmptyChain,
    /// The first certificate identifies no workload.
    #[error(transparent)]
    Leaf(#[from] PeerIdentityError),
    /// The URI in the certificate is another workload's.
    #[error("the certificate is meant to be {expected}'s and names {named}")]
    OtherIdentity {
        /// Whose it was said to be.
        expected: Box<SpiffeId>,
        /// Whose it is.
        named: Box<str>,
    },
    /// The certificate has no URI, and none of its DNS names is the workload's.
    #[error(
        "the certificate is meant to be {expected}'s, and its DNS names ({presented}) match none \
         of the workload's ({})", if .names.is_empty() { "it has none".into() } else { .names.join(", ") }
    )]
    NoNameMatches {
        /// Whose it was said to be.
        expected: Box<SpiffeId>,
        /// The names in the certificate.
        presented: String,
        /// The names that the workload is configured with.
        names: Vec<String>,
    },
}

/// The roots that vouch for a trust domain. Several while a root is replaced.
#[derive(Clone, PartialEq, Eq)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Vec<CertificateDer<'static>>,
}

impl Svid {
    /// Takes a chain, leaf first and without the root, and the leaf's private
    /// key. That they belong together is checked when TLS is set up with them.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, SvidError> {
        let key = Zeroizing::new(key);
        let leaf = leaf::read(chain.first().ok_or(SvidError::EmptyChain)?)?;
        Ok(Self { leaf, chain, key })
    }

    /// [`Self::new`] for a certificate that the configuration gives to `id`. Its
    /// URI must be that identity; without a URI, one of its DNS names must match
    /// one of `names`, as [`super::NameProofs`] has it.
    ///
    /// # Errors
    /// A certificate of somebody else's, with what it says and what was expected.
    pub fn named(
        id: &SpiffeId,
        names: &[String],
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, SvidError> {
        let key = Zeroizing::new(key);
        let certificate = leaf::parse(chain.first().ok_or(SvidError::EmptyChain)?)?;
        match leaf::claim(&certificate)? {
            Claim::Uri(named) if named == id.to_string() => {}
            Claim::Uri(named) => {
                return Err(SvidError::OtherIdentity {
                    expected: id.clone().into(),
                    named: leaf::shown(&[named]).into(),
                });
            }
            Claim::Names(presented) => {
                let fits = |name| presented.iter().any(|shown| name_matches(shown, name));
                if !names.iter().any(|name| fits(name)) {
                    return Err(SvidError::NoNameMatches {
                        expected: id.clone().into(),
                        presented: leaf::shown(&presented),
                        names: names.to_vec(),
                    });
                }
            }
        }
        let leaf = leaf::read_as(id.clone(), &certificate)?;
        Ok(Self { leaf, chain, key })
    }

    /// The workload that the certificate names.
    pub fn id(&self) -> &SpiffeId {
        &self.leaf.id
    }

    /// The certificates to present, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The leaf's private key.
    pub(crate) fn key(&self) -> &PrivateKeyDer<'static> {
        &self.key
    }

    /// The leaf's serial number in lower-case hex.
    pub fn serial(&self) -> &str {
        &self.leaf.serial
    }

    /// The key identifier of the leaf's issuer, where the leaf names it.
    pub fn issuer(&self) -> Option<&KeyId> {
        self.leaf.issuer.as_ref()
    }

    /// Start of the leaf's validity.
    pub fn not_before(&self) -> SystemTime {
        self.leaf.not_before
    }

    /// End of the leaf's validity, inclusive.
    pub fn not_after(&self) -> SystemTime {
        self.leaf.not_after
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("leaf", &self.leaf)
            .field("certificates", &self.chain.len())
            .finish_non_exhaustive()
    }
}

impl TrustBundle {
    /// The DER-encoded roots of a trust domain.
    pub fn new(trust_domain: TrustDomain, roots: Vec<CertificateDer<'static>>) -> Self {
        Self {
            trust_domain,
            roots,
        }
    }

    /// The trust domain that the roots vouch for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots, DER-encoded.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustBundle")
            .field("trust_domain", &self.trust_domain)
            .field("roots", &self.roots.len())
            .finish()
    }
}
