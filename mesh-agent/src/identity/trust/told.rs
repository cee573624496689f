//! What the trust store is told: roots, revocation and issuers, in the form in which
//! authorities and the configuration know them.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::CertificateRevocationListDer;

use crate::identity::TrustBundle;

/// What becomes of a peer of whom it cannot be said whether it was revoked: the
/// list is past its `nextUpdate` (RFC 5280 §5.1.2.5), or cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StaleLists {
    /// It is refused. What a list revokes, however old, is refused either way.
    #[default]
    Refuse,
    /// It is let in.
    Allow,
}

/// How well it is known what a trust domain has revoked, for status and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RevocationStatus {
    /// The domain publishes no lists, and none are asked for.
    NotUsed,
    /// All lists are in date until then.
    Fresh {
        /// The earliest `nextUpdate`; `None` when no list has one.
        until: Option<SystemTime>,
    },
    /// A list is past its `nextUpdate`.
    Stale {
        /// The earliest `nextUpdate`.
        since: SystemTime,
    },
    /// A list, or all, cannot be read: why.
    Unreadable(Arc<str>),
}

/// What vouches for the workloads of one trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainTrust {
    /// The roots; several while one is replaced by another.
    pub bundle: TrustBundle,
    /// What was revoked.
    pub revocation: Revocation,
}

/// What is known of a trust domain's revoked certificates.
#[derive(Clone, PartialEq, Eq)]
pub enum Revocation {
    /// The domain publishes no revocation list, and none is asked for.
    NotUsed,
    /// Its signed lists, one for each issuer of its certificates.
    Lists(Vec<CertificateRevocationListDer<'static>>),
    /// There should be lists, and they could not be read: why.
    Unreadable(Arc<str>),
}

/// The subject key identifier of an issuer's certificate (RFC 5280 §4.2.1.2).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KeyId(Arc<[u8]>);

/// News of the own trust domain, from its authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustUpdate {
    /// Roots and revocation.
    pub domain: DomainTrust,
    /// The issuer with which the authority signs from now on, where it says so:
    /// certificates of another issuer are renewed soon.
    pub issuer: Option<KeyId>,
}

impl KeyId {
    /// Takes the identifier's bytes.
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl fmt::Debug for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUsed => f.write_str("NotUsed"),
            Self::Lists(lists) => f.debug_tuple("Lists").field(&lists.len()).finish(),
            Self::Unreadable(why) => f.debug_tuple("Unreadable").field(why).finish(),
        }
    }
}
