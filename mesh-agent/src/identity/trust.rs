//! What peers are checked against at this moment: by trust domain, the roots that
//! vouch for it and what it has revoked. Whoever learns of a change (the embedded
//! authority, a remote one, the configuration) tells the store; the verifiers of
//! [`crate::tls`] read it in every handshake, so a change holds for the next one.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateRevocationListDer;
use tokio::sync::watch;

use super::{TrustBundle, TrustDomain};

/// Trust in force, exchanged as a whole. Read without a lock.
pub struct TrustStore {
    own: TrustDomain,
    current: ArcSwap<Trust>,
    /// Serialises writers; readers never take it.
    writing: Mutex<()>,
    changes: watch::Sender<u64>,
}

/// One state of the store.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    number: u64,
    domains: HashMap<TrustDomain, Arc<DomainTrust>>,
    issuer: Option<KeyId>,
}

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

impl TrustStore {
    /// A store that trusts nobody yet. `own` is the mesh's own trust domain.
    pub fn new(own: TrustDomain) -> Arc<Self> {
        Arc::new(Self {
            own,
            current: ArcSwap::default(),
            writing: Mutex::default(),
            changes: watch::Sender::new(0),
        })
    }

    /// The mesh's own trust domain.
    pub fn own(&self) -> &TrustDomain {
        &self.own
    }

    /// The trust in force.
    pub fn current(&self) -> Arc<Trust> {
        self.current.load_full()
    }

    /// Tells the number of each state that comes into force.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Takes the authority's news of the own trust domain into force.
    pub fn set_own(&self, update: TrustUpdate) {
        self.replace(|trust| {
            let domain = Arc::new(update.domain);
            trust.domains.insert(self.own.clone(), domain);
            trust.issuer = update.issuer;
        });
    }

    /// Takes the foreign trust domains of the configuration into force, in place
    /// of all earlier ones. One that has the own name is left out.
    pub fn set_foreign(&self, foreign: Vec<DomainTrust>) {
        self.replace(|trust| {
            trust.domains.retain(|name, _| *name == self.own);
            for domain in foreign {
                let name = domain.bundle.trust_domain().clone();
                if name != self.own {
                    trust.domains.insert(name, Arc::new(domain));
                }
            }
        });
    }

    fn replace(&self, change: impl FnOnce(&mut Trust)) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let was = self.current.load();
        let mut next = Trust::clone(&was);
        change(&mut next);
        if next.domains == was.domains && next.issuer == was.issuer {
            return;
        }
        next.number += 1;
        let number = next.number;
        self.current.store(Arc::new(next));
        self.changes.send_replace(number);
    }
}

impl Trust {
    /// Counts the states, from 0 for the empty one.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What vouches for `name`; `None` for a domain that nobody here trusts.
    pub fn domain(&self, name: &TrustDomain) -> Option<&Arc<DomainTrust>> {
        self.domains.get(name)
    }

    /// All trusted domains.
    pub fn domains(&self) -> impl Iterator<Item = &Arc<DomainTrust>> {
        self.domains.values()
    }

    /// The issuer with which the own authority signs now, where it says so.
    pub fn issuer(&self) -> Option<&KeyId> {
        self.issuer.as_ref()
    }
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

impl fmt::Debug for TrustStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustStore")
            .field("current", &*self.current.load())
            .finish_non_exhaustive()
    }
}
