//! SPIFFE IDs in the form that Istio gives workloads:
//! `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`. Other forms are made and
//! read by [`super::IdForms`].

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The name of a trust domain, as in SPIFFE-ID §2.1: lower-case letters,
/// digits, dots, dashes and underscores, at most 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// The identity of a workload: its trust domain, namespace and service account.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    namespace: Arc<str>,
    account: Account,
}

/// The service account, and the path of the ID where that is of another form than Istio's. As
/// large as the account alone, since identities are part of many errors.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Account {
    Standard(Arc<str>),
    /// The path begins with a slash.
    WithPath(Arc<(Arc<str>, String)>),
}

const _: () = assert!(size_of::<Account>() == size_of::<Arc<str>>());

/// Why a text is not an identity of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The trust domain has a character or a length SPIFFE does not allow.
    #[error(
        "trust domain {0:?} is not valid: use 1 to 255 lower-case letters, digits, '.', '-' or '_'"
    )]
    TrustDomain(String),
    /// The namespace or service account is not a Kubernetes name.
    #[error("{0:?} is not a Kubernetes name: use lower-case letters, digits, '-' or '.'")]
    Name(String),
    /// The URI has another shape.
    #[error("{0:?} is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Shape(String),
    /// The URI is not of the form that the configuration gives to its trust domain.
    #[error("{uri:?} is not of the form {form}")]
    Form {
        /// The URI.
        uri: String,
        /// The template, with the trust domain.
        form: String,
    },
}

impl TrustDomain {
    /// Checks and takes a trust domain's name.
    pub fn new(name: &str) -> Result<Self, IdentityError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
        if name.is_empty() || name.len() > 255 || !name.bytes().all(allowed) {
            return Err(IdentityError::TrustDomain(name.to_owned()));
        }
        Ok(Self(name.into()))
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SpiffeId {
    /// The identity of a service account; namespace and account must be
    /// Kubernetes names (RFC 1123, at most 253 bytes).
    pub fn new(
        trust_domain: TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, IdentityError> {
        Self::of(trust_domain, namespace.into(), service_account.into())
    }

    /// [`new`](Self::new), of texts that are shared.
    pub(crate) fn of(
        trust_domain: TrustDomain,
        namespace: Arc<str>,
        service_account: Arc<str>,
    ) -> Result<Self, IdentityError> {
        for name in [&namespace, &service_account] {
            if !is_kubernetes_name(name) {
                return Err(IdentityError::Name(name.to_string()));
            }
        }
        Ok(Self {
            trust_domain,
            namespace,
            account: Account::Standard(service_account),
        })
    }

    /// The same workload under an ID with another path.
    pub(super) fn with_path(self, path: String) -> Self {
        let account = match self.account {
            Account::Standard(name) => name,
            Account::WithPath(both) => Arc::clone(&both.0),
        };
        Self {
            account: Account::WithPath(Arc::new((account, path))),
            ..self
        }
    }

    /// The path, where it is of another form than Istio's.
    pub(crate) fn path(&self) -> Option<&str> {
        match &self.account {
            Account::Standard(_) => None,
            Account::WithPath(both) => Some(&both.1),
        }
    }

    /// The trust domain that vouches for this identity.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The Kubernetes service account.
    pub fn service_account(&self) -> &str {
        match &self.account {
            Account::Standard(name) => name,
            Account::WithPath(both) => &both.0,
        }
    }
}

pub(super) fn is_kubernetes_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    name.len() <= 253
        && edge(name.bytes().next())
        && edge(name.bytes().last())
        && name.bytes().all(inner)
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = self.path() {
            return write!(f, "spiffe://{}{path}", self.trust_domain);
        }
        let (namespace, account) = (&self.namespace, self.service_account());
        write!(
            f,
            "spiffe://{}/ns/{namespace}/sa/{account}",
            self.trust_domain
        )
    }
}

impl FromStr for SpiffeId {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        let shape = || IdentityError::Shape(uri.to_owned());
        let rest = uri.strip_prefix("spiffe://").ok_or_else(shape)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [trust_domain, "ns", namespace, "sa", account] = parts[..] else {
            return Err(shape());
        };
        Self::new(TrustDomain::new(trust_domain)?, namespace, account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_round_trip() {
        let uri = "spiffe://cluster.local/ns/shop/sa/web";
        assert_eq!(uri.parse::<SpiffeId>().unwrap().to_string(), uri);
    }

    #[test]
    fn what_is_not_an_identity_is_refused() {
        for uri in [
            "",
            "spiffe://cluster.local",
            "spiffe://cluster.local/ns/shop/sa/web/",
            "spiffe://cluster.local/ns/shop/sa/web/extra",
            "spiffe://cluster.local/ns//sa/web",
            "spiffe://cluster.local/ns/shop/sa/",
            "spiffe://Cluster.Local/ns/shop/sa/web",
            "spiffe://cluster.local:80/ns/shop/sa/web",
            "spiffe://user@cluster.local/ns/shop/sa/web",
            "spiffe://cluster.local/ns/shop%2f/sa/web",
            "spiffe://cluster.local/ns/shop/sa/web?x",
            "https://cluster.local/ns/shop/sa/web",
            "SPIFFE://cluster.local/ns/shop/sa/web",
        ] {
            assert!(uri.parse::<SpiffeId>().is_err(), "{uri} was taken");
        }
    }
}
