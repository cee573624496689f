//! One certificate per identity, however many pods share it: issued once, kept
//! fresh in the background, forgotten when the last holder drops it. The agent
//! acquires a [`Credential`] for each pod it enrols.

mod credential;
mod gate;
mod renewal;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::{
    CertificateAuthority, Clock, IssueError, SpiffeId, SystemClock, TrustDomain, TrustStore,
};
use crate::tls::ParametersStore;
use gate::{Gate, Purpose};

pub use credential::{Credential, CredentialError, SvidInfo};

/// Hands out shared credentials and renews them.
pub struct SvidStore {
    means: Arc<Means>,
    runtime: Handle,
    slots: Mutex<HashMap<SpiffeId, Slot>>,
}

/// What every credential is made and judged with.
struct Means {
    authority: Arc<dyn CertificateAuthority>,
    trust: Arc<TrustStore>,
    parameters: Arc<ParametersStore>,
    clock: Arc<dyn Clock>,
    gate: Arc<Gate>,
}

type Outcome = Result<Arc<Credential>, IssueError>;

enum Slot {
    /// The authority is being asked; whoever wants the identity waits here.
    Issuing(watch::Receiver<Option<Outcome>>),
    /// Somebody may hold the credential.
    Issued(Weak<Credential>),
}

impl SvidStore {
    /// A store in front of `authority`, on the machine's clock. Peers are judged by
    /// `trust`, and TLS is done by `parameters`, as both are in each handshake.
    ///
    /// # Panics
    /// Outside a tokio runtime. Asking the authority and renewing happen on the
    /// runtime in which this is called, whoever acquires.
    pub fn new(
        authority: Arc<dyn CertificateAuthority>,
        trust: Arc<TrustStore>,
        parameters: Arc<ParametersStore>,
    ) -> Arc<Self> {
        Self::with_clock(authority, trust, parameters, Arc::new(SystemClock))
    }

    /// [`Self::new`] with another clock.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn with_clock(
        authority: Arc<dyn CertificateAuthority>,
        trust: Arc<TrustStore>,
        parameters: Arc<ParametersStore>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        let means = Means {
            authority,
            trust,
            parameters,
            clock,
            gate: Gate::new(),
        };
        Arc::new(Self {
            means: Arc::new(means),
            runtime: Handle::current(),
            slots: Mutex::default(),
        })
    }

    /// The credential of `id`. It is issued when nobody holds it yet; callers
    /// that want the same identity at the same time share one request, and its
    /// failure. Dropping the last `Arc` ends renewal and forgets the key.
    pub async fn acquire(self: &Arc<Self>, id: &SpiffeId) -> Result<Arc<Credential>, IssueError> {
        let mut pending = match self.find_or_issue(id) {
            Found::Ready(credential) => return Ok(credential),
            Found::Pending(pending) => pending,
        };
        match pending.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            // The issuing task is gone without a word.
            Ok(None) | Err(_) => Err(IssueError::Abandoned(id.clone())),
        }
    }

    /// Has the authority asked at once for a new certificate of `id`, as when a file
    /// changed; nothing, where nobody holds one. Several wishes at a time are one.
    pub fn renew(&self, id: &SpiffeId) {
        if let Some(Slot::Issued(credential)) = self.slots().get(id)
            && let Some(credential) = credential.upgrade()
        {
            credential.wanted().notify_one();
        }
    }

    /// [`renew`](Self::renew) of every identity of a service account: pods of one account may
    /// have several.
    pub(crate) fn renew_account(&self, domain: &TrustDomain, namespace: &str, account: &str) {
        let slots = self.slots();
        let ids = slots.keys().filter(|id| {
            id.trust_domain() == domain
                && id.namespace() == namespace
                && id.service_account() == account
        });
        let ids: Vec<SpiffeId> = ids.cloned().collect();
        drop(slots);
        for id in ids {
            self.renew(&id);
        }
    }

    /// The credentials in use, ordered by identity.
    pub fn list(&self) -> Vec<SvidInfo> {
        let mut held: Vec<_> = self
            .slots()
            .values()
            .filter_map(|slot| match slot {
                Slot::Issued(credential) => credential.upgrade(),
                Slot::Issuing(_) => None,
            })
            .collect();
        held.sort_by(|a, b| a.id().cmp(b.id()));
        held.iter().map(|credential| credential.info()).collect()
    }

    fn find_or_issue(self: &Arc<Self>, id: &SpiffeId) -> Found {
        let mut slots = self.slots();
        match slots.get(id) {
            Some(Slot::Issued(credential)) => {
                if let Some(credential) = credential.upgrade() {
                    return Found::Ready(credential);
                }
            }
            Some(Slot::Issuing(pending)) if is_open(pending) => {
                return Found::Pending(pending.clone());
            }
            Some(Slot::Issuing(_)) | None => {}
        }
        // Nothing leaves the map when a credential is dropped, so what nobody
        // holds any more goes before something new comes.
        slots.retain(|_, slot| slot.is_live());
        let (tell, pending) = watch::channel(None);
        slots.insert(id.clone(), Slot::Issuing(pending.clone()));
        drop(slots);
        let (store, id) = (Arc::clone(self), id.clone());
        self.runtime.spawn(async move {
            let outcome = store.issue(&id).await;
            store.settle(&id, &outcome);
            tell.send_replace(Some(outcome));
        });
        Found::Pending(pending)
    }

    async fn issue(&self, id: &SpiffeId) -> Outcome {
        let issuer = self.means.trust.current().issuer().cloned();
        let issued = renewal::ask(&self.means, id, Purpose::First).await?;
        let credential = Arc::new(Credential::new(id, issued, &self.means)?);
        let means = Arc::clone(&self.means);
        let renewal = renewal::keep_fresh(Arc::downgrade(&credential), means, issuer);
        credential.renewed_by(self.runtime.spawn(renewal).abort_handle());
        Ok(credential)
    }

    fn settle(&self, id: &SpiffeId, outcome: &Outcome) {
        let mut slots = self.slots();
        match (slots.entry(id.clone()), outcome) {
            (Entry::Occupied(mut slot), Ok(credential)) => {
                slot.insert(Slot::Issued(Arc::downgrade(credential)));
            }
            (Entry::Occupied(slot), Err(_)) => {
                slot.remove();
            }
            (Entry::Vacant(slot), Ok(credential)) => {
                slot.insert(Slot::Issued(Arc::downgrade(credential)));
            }
            (Entry::Vacant(_), Err(_)) => {}
        }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<SpiffeId, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Found {
    Ready(Arc<Credential>),
    Pending(watch::Receiver<Option<Outcome>>),
}

impl Slot {
    fn is_live(&self) -> bool {
        match self {
            Self::Issuing(pending) => is_open(pending),
            Self::Issued(credential) => credential.strong_count() > 0,
        }
    }
}

/// Whether the issuing task is still there to tell the outcome.
fn is_open(pending: &watch::Receiver<Option<Outcome>>) -> bool {
    pending.has_changed().is_ok()
}

impl fmt::Debug for SvidStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SvidStore")
            .field("identities", &self.slots().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
