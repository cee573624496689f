//! The message of `isthmus.ca.v1.Trust/Watch`: the whole state of a trust domain as
//! its authority sees it. Made by the server; read, with every doubt, by the client,
//! which also keeps it on disk in this form.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use serde::{Deserialize, Serialize};

use crate::ca::pem::block;
use crate::identity::{DomainTrust, KeyId, Revocation, TrustBundle, TrustDomain, TrustUpdate};

/// Roots and revocation of one trust domain: `isthmus.ca.v1.TrustState`.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustMessage {
    /// The trust domain's name.
    #[prost(string, tag = "1")]
    pub trust_domain: String,
    /// The roots, one PEM block each.
    #[prost(string, repeated, tag = "2")]
    pub roots: Vec<String>,
    /// The signed revocation lists, one PEM block each.
    #[prost(string, repeated, tag = "3")]
    pub revocation_lists: Vec<String>,
    /// Not empty: there should be lists, and this is why they could not be read.
    #[prost(string, tag = "4")]
    pub revocation_unreadable: String,
    /// The domain publishes no lists at all. Absent, a state without lists is one in
    /// which nobody's certificate can be checked.
    #[prost(bool, tag = "5")]
    pub revocation_not_used: bool,
    /// Key identifier of the issuer that signs now; empty when it is not told.
    #[prost(bytes = "vec", tag = "6")]
    pub issuer: Vec<u8>,
}

/// Why a state of trust cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustMessageError {
    /// It is another mesh's.
    #[error("it is the trust of {told:?}, while this mesh's trust domain is {ours}")]
    OtherDomain {
        /// The name in it.
        told: String,
        /// Our own.
        ours: TrustDomain,
    },
    /// There is nothing to check peers against.
    #[error("it has no root")]
    NoRoot,
    /// A root is not a certificate in PEM.
    #[error("its root {0} is not a certificate in PEM")]
    Root(usize),
}

impl TrustMessage {
    /// Puts an authority's state into words.
    pub fn new(update: &TrustUpdate) -> Self {
        let TrustUpdate { domain, issuer } = update;
        let mut message = Self {
            trust_domain: domain.bundle.trust_domain().to_string(),
            roots: domain
                .bundle
                .roots()
                .iter()
                .map(|der| certificate(der))
                .collect(),
            issuer: issuer
                .as_ref()
                .map_or_else(Vec::new, |key| key.as_bytes().to_vec()),
            ..Self::default()
        };
        match &domain.revocation {
            Revocation::NotUsed => message.revocation_not_used = true,
            Revocation::Lists(lists) => {
                message.revocation_lists = lists.iter().map(|der| block("X509 CRL", der)).collect();
            }
            Revocation::Unreadable(why) => message.revocation_unreadable = why.to_string(),
        }
        message
    }

    /// Reads it as the trust of `ours`. A list that cannot be read is no error: the
    /// state says so, and what that means is the mesh's choice.
    ///
    /// # Errors
    /// See [`TrustMessageError`].
    pub fn read(&self, ours: &TrustDomain) -> Result<TrustUpdate, TrustMessageError> {
        if self.trust_domain != ours.as_str() {
            return Err(TrustMessageError::OtherDomain {
                told: self.trust_domain.clone(),
                ours: ours.clone(),
            });
        }
        let mut roots = Vec::with_capacity(self.roots.len());
        for (index, pem) in self.roots.iter().enumerate() {
            roots.push(read_certificate(pem).ok_or(TrustMessageError::Root(index))?);
        }
        if roots.is_empty() {
            return Err(TrustMessageError::NoRoot);
        }
        let issuer = Some(&self.issuer).filter(|key| !key.is_empty());
        Ok(TrustUpdate {
            domain: DomainTrust {
                bundle: TrustBundle::new(ours.clone(), roots),
                revocation: self.revocation(),
            },
            issuer: issuer.map(|key| KeyId::new(key)),
        })
    }

    fn revocation(&self) -> Revocation {
        if !self.revocation_unreadable.is_empty() {
            return Revocation::Unreadable(self.revocation_unreadable.as_str().into());
        }
        if self.revocation_not_used && self.revocation_lists.is_empty() {
            return Revocation::NotUsed;
        }
        let mut lists = Vec::with_capacity(self.revocation_lists.len());
        for (index, pem) in self.revocation_lists.iter().enumerate() {
            match read_list(pem) {
                Some(list) => lists.push(list),
                None => {
                    let why = format!("revocation list {index} is not a CRL in PEM");
                    return Revocation::Unreadable(why.into());
                }
            }
        }
        Revocation::Lists(lists)
    }
}

/// A certificate in PEM.
pub(crate) fn certificate(der: &[u8]) -> String {
    block("CERTIFICATE", der)
}

fn read_certificate(text: &str) -> Option<CertificateDer<'static>> {
    let der = CertificateDer::from_pem_slice(text.as_bytes()).ok()?;
    let (rest, _) = x509_parser::parse_x509_certificate(&der).ok()?;
    rest.is_empty().then_some(der.clone())
}

fn read_list(text: &str) -> Option<CertificateRevocationListDer<'static>> {
    let der = CertificateRevocationListDer::from_pem_slice(text.as_bytes()).ok()?;
    let (rest, _) = x509_parser::parse_x509_crl(&der).ok()?;
    rest.is_empty().then_some(der.clone())
}

#[cfg(test)]
mod tests;
