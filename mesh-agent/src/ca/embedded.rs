//! The embedded authority: an [`Authority`] in the agent's own state directory.
//! The agent opens it when no other is configured, asks it for certificates, and
//! lets it tell the trust store.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, SanType};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::task::JoinHandle;
use zeroize::{Zeroize, Zeroizing};

use super::authority::{Authority, Requester};
use super::{CaError, MakeError, SignError, disk, init, profile};
use crate::identity::{
    BoxFuture, CertificateAuthority, Clock, DomainTrust, IssueError, Issued, Revocation, SpiffeId,
    Svid, SystemClock, TrustDomain, TrustStore, TrustUpdate,
};

/// How often the authority is tended.
const TEND_EVERY: Duration = Duration::from_secs(60);

/// An authority in this process. Agents that share its directory share it.
#[derive(Debug)]
pub struct EmbeddedCa {
    authority: Arc<Authority>,
    requester: Requester,
    lifetime: Option<Duration>,
}

impl EmbeddedCa {
    /// Opens the authority in `<state_dir>/ca`. The first to come makes it, with a
    /// root of its own; agents that start at the same instant all end with that one.
    ///
    /// # Errors
    /// Files that others can write or read, that do not belong together, or an
    /// authority of another trust domain. Each names the file and the cure.
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
        disk::make_dir(state_dir)?;
        // Whoever can write here can put another directory in the authority's place.
        disk::check_dir(state_dir, 0o022)?;
        let authority = init::open_or_init(&state_dir.join("ca"), trust_domain, clock)?;
        if authority.trust_domain() != trust_domain {
            return Err(CaError::OtherTrustDomain {
                path: authority.dir().to_owned(),
                found: authority.trust_domain().clone(),
                configured: trust_domain.clone(),
            });
        }
        Ok(Self {
            authority: Arc::new(authority),
            requester: Requester {
                node: host().into(),
            },
            lifetime: None,
        })
    }

    /// Has certificates be valid for `lifetime` instead of 24 h, which is the most.
    #[must_use]
    pub fn with_lifetime(self, lifetime: Option<Duration>) -> Self {
        Self { lifetime, ..self }
    }

    /// The authority itself.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// Tells `store` what to trust: once before it returns, then after each change
    /// of the directory, whoever made it. Tends the authority every minute. Ends
    /// when the handle is aborted.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn follow(self: &Arc<Self>, store: Arc<TrustStore>) -> JoinHandle<()> {
        // Watched before it is read, so that no change falls in between.
        let changes = self.authority.changes();
        let mut last = None;
        tell(&store, tended(&self.authority), &mut last);
        let authority = Arc::clone(&self.authority);
        tokio::spawn(async move {
            let mut changes = match changes {
                Ok(changes) => Some(changes),
                Err(error) => {
                    tracing::error!(%error, "changes of the authority are noticed every minute only");
                    None
                }
            };
            let mut tick = tokio::time::interval(TEND_EVERY);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            tick.reset();
            loop {
                let changed = async {
                    match &mut changes {
                        Some(changes) => changes.changed().await,
                        None => std::future::pending().await,
                    }
                };
                let read = tokio::select! {
                    () = changed => Authority::trust,
                    _ = tick.tick() => tended,
                };
                let authority = Arc::clone(&authority);
                let trust = tokio::task::spawn_blocking(move || read(&authority)).await;
                match trust {
                    Ok(trust) => tell(&store, trust, &mut last),
                    // The runtime is going down.
                    Err(_) => return,
                }
            }
        })
    }
}

/// Tends the authority and reads what it says.
fn tended(authority: &Authority) -> Result<TrustUpdate, CaError> {
    if let Err(error) = authority.tend() {
        tracing::error!(%error, "the authority could not be tended");
    }
    authority.trust()
}

/// An authority that cannot be read leaves its last roots trusted, and says that
/// its lists are unreadable.
fn tell(store: &TrustStore, trust: Result<TrustUpdate, CaError>, last: &mut Option<TrustUpdate>) {
    match trust {
        Ok(update) => {
            if let Revocation::Unreadable(why) = &update.domain.revocation {
                tracing::error!(%why, "a revocation list cannot be read");
            }
            *last = Some(update.clone());
            store.set_own(update);
        }
        Err(error) => {
            tracing::error!(%error, "the authority cannot be read");
            if let Some(TrustUpdate { domain, issuer }) = last.clone() {
                store.set_own(TrustUpdate {
                    domain: DomainTrust {
                        revocation: Revocation::Unreadable(error.to_string().into()),
                        ..domain
                    },
                    issuer,
                });
            }
        }
    }
}

impl CertificateAuthority for EmbeddedCa {
    fn source(&self, _: &SpiffeId) -> Arc<str> {
        "embedded CA".into()
    }

    fn issue<'a>(&'a self, id: &'a SpiffeId) -> BoxFuture<'a, Result<Issued, IssueError>> {
        let (authority, requester) = (Arc::clone(&self.authority), self.requester.clone());
        let lifetime = self.lifetime;
        let wanted = id.clone();
        Box::pin(async move {
            let signed = tokio::task::spawn_blocking(move || {
                issue(&authority, &wanted, &requester, lifetime)
            })
            .await;
            let svid = signed.unwrap_or(Err(SignError::Abandoned));
            svid.map_err(|error| IssueError::Authority {
                id: id.clone(),
                source: Arc::new(error),
            })
        })
    }
}

/// Makes a key, has it certified, and keeps it in memory.
fn issue(
    authority: &Authority,
    id: &SpiffeId,
    requester: &Requester,
    lifetime: Option<Duration>,
) -> Result<Issued, SignError> {
    let mut key = profile::new_key()?;
    let request = request(id, &key);
    let pkcs8 = PrivatePkcs8KeyDer::from(key.serialize_der());
    key.zeroize();
    let signed = authority.sign(&request?, id, requester, lifetime)?;
    let svid = Svid::named(id, &[], signed.chain, PrivateKeyDer::from(pkcs8))?;
    Ok(Issued { svid, bundle: None })
}

/// A request for one identity and nothing else, in DER, and its new key in PEM.
///
/// # Errors
/// [`MakeError`] when the system gives no randomness.
pub fn make_request(id: &SpiffeId) -> Result<(Vec<u8>, Zeroizing<String>), MakeError> {
    let key = profile::new_key()?;
    let made = request(id, &key);
    let key = profile::key_to_pem(key);
    Ok((made?, key))
}

fn request(id: &SpiffeId, key: &rcgen::KeyPair) -> Result<Vec<u8>, MakeError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.to_string().try_into()?)];
    Ok(params.serialize_request(key)?.der().to_vec())
}

/// The name of this machine, for the journal.
fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".into(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests;
