//! What peers are checked against at this moment: by trust domain, the roots that
//! vouch for it and what it has revoked. Whoever learns of a change (the embedded
//! authority, a remote one, the configuration) tells the store; the verifiers of
//! [`crate::tls`] read it in every handshake, so a change holds for the next one.

mod names;
mod prepared;
mod told;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{IdForms, TrustDomain};

pub use names::NameProofs;
pub(crate) use names::matches as name_matches;
pub(crate) use prepared::{Anchors, List, Lists};
pub use told::{DomainTrust, KeyId, Revocation, RevocationStatus, StaleLists, TrustUpdate};

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
    domains: HashMap<TrustDomain, Known>,
    issuer: Option<KeyId>,
    stale: StaleLists,
    names: Arc<NameProofs>,
    id_forms: Arc<IdForms>,
}

/// A trusted domain as it was told, and as handshakes use it.
#[derive(Clone, Debug)]
struct Known {
    told: Arc<DomainTrust>,
    anchors: Arc<Anchors>,
    lists: Arc<Lists>,
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

    /// Takes the authority's news of the own trust domain into force. A bundle of
    /// another domain is passed over, and said in the log: it would be a defect of
    /// the authority's to vouch for others.
    pub fn set_own(&self, update: TrustUpdate) {
        let named = update.domain.bundle.trust_domain();
        if *named != self.own {
            tracing::error!(ours = %self.own, got = %named,
                "the authority sent roots of another trust domain: not taken");
            return;
        }
        self.replace(|trust| {
            trust.know(update.domain);
            trust.issuer = update.issuer;
        });
    }

    /// Takes the foreign trust domains of the configuration into force, in place
    /// of all earlier ones. One that has the own name is left out.
    pub fn set_foreign(&self, foreign: Vec<DomainTrust>) {
        self.replace(|trust| {
            let stays = |name: &TrustDomain| {
                let mut named = foreign.iter().map(|domain| domain.bundle.trust_domain());
                *name == self.own || named.any(|named| named == name)
            };
            trust.domains.retain(|name, _| stays(name));
            for domain in foreign {
                if *domain.bundle.trust_domain() != self.own {
                    trust.know(domain);
                }
            }
        });
    }

    /// Has everybody judge their peers again: roots changed that a certificate brought.
    pub(crate) fn announce(&self) {
        self.exchange(|_| true);
    }

    /// Decides about peers whose revocation cannot be known.
    pub fn set_stale(&self, stale: StaleLists) {
        self.replace(|trust| trust.stale = stale);
    }

    /// Takes the DNS names into force with which workloads may prove themselves.
    pub fn set_names(&self, names: NameProofs) {
        self.replace(|trust| {
            if *trust.names != names {
                trust.names = Arc::new(names);
            }
        });
    }

    /// Takes the forms of SPIFFE IDs into force.
    pub fn set_id_forms(&self, forms: &IdForms) {
        self.replace(|trust| {
            if *trust.id_forms != *forms {
                trust.id_forms = Arc::new(forms.clone());
            }
        });
    }

    fn replace(&self, change: impl FnOnce(&mut Trust)) {
        self.exchange(|trust| {
            let was = trust.clone();
            change(trust);
            !trust.says_the_same_as(&was)
        });
    }

    /// Puts the changed state into force if `change` says that it is one.
    fn exchange(&self, change: impl FnOnce(&mut Trust) -> bool) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Trust::clone(&self.current.load());
        if !change(&mut next) {
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
        self.domains.get(name).map(|known| &known.told)
    }

    /// All trusted domains, in no order.
    pub fn domains(&self) -> impl Iterator<Item = &Arc<DomainTrust>> {
        self.domains.values().map(|known| &known.told)
    }

    /// The issuer with which the own authority signs now, where it says so.
    pub fn issuer(&self) -> Option<&KeyId> {
        self.issuer.as_ref()
    }

    /// What becomes of peers whose revocation cannot be known.
    pub fn stale(&self) -> StaleLists {
        self.stale
    }

    /// The DNS names with which workloads may prove themselves.
    pub fn names(&self) -> &NameProofs {
        &self.names
    }

    /// The forms of SPIFFE IDs, by trust domain.
    pub fn id_forms(&self) -> &IdForms {
        &self.id_forms
    }

    /// How well it is known at `now` what `name` has revoked; `None` for a domain
    /// that nobody here trusts.
    pub fn revocation(&self, name: &TrustDomain, now: SystemTime) -> Option<RevocationStatus> {
        Some(self.domains.get(name)?.lists.status(now))
    }

    /// Roots of `name` that cannot be used, each with its place in the bundle and
    /// the reason. They vouch for nobody; the others do.
    pub fn unusable_roots(&self, name: &TrustDomain) -> &[Arc<str>] {
        self.domains
            .get(name)
            .map_or(&[], |known| known.anchors.unusable())
    }

    /// The roots of `name`, as handshakes use them.
    pub(crate) fn anchors(&self, name: &TrustDomain) -> Option<&Arc<Anchors>> {
        Some(&self.domains.get(name)?.anchors)
    }

    /// The lists of `name`, as handshakes use them.
    pub(crate) fn lists(&self, name: &TrustDomain) -> Option<&Arc<Lists>> {
        Some(&self.domains.get(name)?.lists)
    }

    /// Takes `told` in place of what was known of its domain. What did not change
    /// is not read again.
    fn know(&mut self, told: DomainTrust) {
        let name = told.bundle.trust_domain().clone();
        let anchors = match self.domains.get(&name) {
            Some(was) if *was.told == told => return,
            Some(was) if was.told.bundle == told.bundle => Arc::clone(&was.anchors),
            _ => Arc::new(Anchors::read(&told.bundle)),
        };
        let lists = Arc::new(Lists::read(&told.revocation));
        let told = Arc::new(told);
        self.domains.insert(
            name,
            Known {
                told,
                anchors,
                lists,
            },
        );
    }

    fn says_the_same_as(&self, other: &Self) -> bool {
        self.domains.len() == other.domains.len()
            && self.domains().all(|domain| {
                let name = domain.bundle.trust_domain();
                other.domain(name).is_some_and(|was| was == domain)
            })
            && self.issuer == other.issuer
            && self.stale == other.stale
            && self.names == other.names
            && self.id_forms == other.id_forms
    }
}

impl fmt::Debug for TrustStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustStore")
            .field("current", &*self.current.load())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
