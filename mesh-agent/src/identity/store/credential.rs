//! A credential in use: one identity's certificate and the TLS made from it,
//! exchanged as a whole when it is renewed. Handshakes read it without a lock.

mod current;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::{ClientConfig, ServerConfig};
use tokio::task::AbortHandle;

use crate::identity::clock::display;
use crate::identity::{IssueError, Issued, KeyId, SpiffeId, Trust};
use crate::tls::{ConfigError, Grounds, HandshakeFailure, Verifier};

use super::Means;
use super::renewal::{Urgency, Wanted};
use current::{Current, Progress};

/// The certificate of one identity and the TLS configurations made from it.
/// Shared by all pods that have the identity; always the newest certificate.
pub struct Credential {
    id: SpiffeId,
    means: Arc<Means>,
    source: Arc<str>,
    /// What peers are judged by, whichever certificate is in use.
    grounds: Arc<Grounds>,
    current: ArcSwap<Current>,
    progress: Mutex<Progress>,
    wanted: Wanted,
    renewal: OnceLock<AbortHandle>,
}

/// Why a credential cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The last certificate ran out before a new one came. Peers would refuse
    /// it; so do we, so that the reason is in our own log.
    #[error("the certificate of {id} expired at {} and could not be renewed", display(*.not_after))]
    Expired {
        /// Whose certificate it is.
        id: SpiffeId,
        /// When it ran out.
        not_after: SystemTime,
    },
    /// No certificate was issued yet; the authority is asked again.
    #[error("no certificate was issued to the workload yet")]
    NotIssued,
    /// The TLS settings in force cannot be used with it: what the library says.
    #[error("TLS cannot be set up for {id}: {why}")]
    Settings {
        /// Whose certificate it is.
        id: SpiffeId,
        /// What the library says.
        why: String,
    },
}

/// What can be told about a credential.
#[derive(Clone, Debug)]
pub struct SvidInfo {
    /// Whose certificate it is.
    pub id: SpiffeId,
    /// Serial number of the certificate, lower-case hex.
    pub serial: Arc<str>,
    /// Start of its validity.
    pub not_before: SystemTime,
    /// End of its validity.
    pub not_after: SystemTime,
    /// 1 for the first certificate, one more with each renewal.
    pub generation: u64,
    /// Where it comes from, as the authority says; see
    /// [`crate::identity::CertificateAuthority::source`].
    pub source: Arc<str>,
    /// Key identifier of its issuer, where the certificate names it.
    pub issuer: Option<KeyId>,
    /// Time to the outage: what is left of its life, zero when it has expired.
    pub left: Duration,
    /// When a new certificate will be asked for, or will be again.
    pub next_try: SystemTime,
    /// Since when renewal fails; `None` when the last attempt succeeded.
    pub failing_since: Option<SystemTime>,
    /// How many attempts have failed since.
    pub attempts: u32,
    /// Why the last attempt at renewal failed, if it did.
    pub renewal_failure: Option<IssueError>,
}

impl Credential {
    pub(super) fn new(
        id: &SpiffeId,
        issued: Issued,
        means: &Arc<Means>,
    ) -> Result<Self, IssueError> {
        let grounds = Grounds::new(Arc::clone(&means.trust), id.trust_domain().clone());
        let (current, roots) = Current::new(id, issued, &grounds, means)?;
        grounds.bring(roots);
        let now = means.clock.now();
        let progress = Progress::after_success(now, current.not_after);
        Ok(Self {
            id: id.clone(),
            means: Arc::clone(means),
            source: means.authority.source(id),
            grounds,
            current: ArcSwap::from_pointee(current),
            progress: Mutex::new(progress),
            wanted: Wanted::default(),
            renewal: OnceLock::new(),
        })
    }

    /// Whose credential this is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Whether handshakes can be done with it now.
    ///
    /// # Errors
    /// [`CredentialError::Expired`] when the certificate ran out.
    pub fn usable(&self) -> Result<(), CredentialError> {
        self.in_use().map(|_| ())
    }

    /// Accepts tunnels for this identity; see [`crate::tls::accept`], which
    /// also insists on ALPN. Ask anew for each handshake.
    ///
    /// # Errors
    /// [`CredentialError::Expired`] when the certificate ran out.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, CredentialError> {
        Ok(self.accepting()?.0)
    }

    /// Opens tunnels as this identity to a peer that must prove to be
    /// `expected`; see [`crate::tls::connect`], which also insists on ALPN.
    /// Ask anew for each handshake.
    ///
    /// # Errors
    /// [`CredentialError::Expired`] when the certificate ran out.
    pub fn client_config(&self, expected: &SpiffeId) -> Result<Arc<ClientConfig>, CredentialError> {
        Ok(self.connecting(expected)?.0)
    }

    /// For one handshake as a server, with what judges the client.
    pub(crate) fn accepting(&self) -> Result<(Arc<ServerConfig>, Arc<Verifier>), CredentialError> {
        let config = self.in_use()?.configs.server();
        config.map_err(|error| self.no_settings(&error))
    }

    /// For one handshake as a client, with what judges the server.
    pub(crate) fn connecting(
        &self,
        expected: &SpiffeId,
    ) -> Result<(Arc<ClientConfig>, Arc<Verifier>), CredentialError> {
        let config = self.in_use()?.configs.client(expected);
        config.map_err(|error| self.no_settings(&error))
    }

    /// Grows with each certificate that comes into use, and with each change of the
    /// TLS settings. A tunnel that was opened under a smaller number was made
    /// with an older certificate or other settings.
    pub fn generation(&self) -> u64 {
        self.current.load().generation + self.means.parameters.current().number()
    }

    /// What can be told about the certificate in use.
    pub fn info(&self) -> SvidInfo {
        let current = self.current.load();
        let progress = self.progress();
        SvidInfo {
            id: self.id.clone(),
            serial: Arc::clone(&current.serial),
            not_before: current.not_before,
            not_after: current.not_after,
            generation: current.generation,
            source: Arc::clone(&self.source),
            issuer: current.issuer.clone(),
            left: current
                .not_after
                .duration_since(self.means.clock.now())
                .unwrap_or_default(),
            next_try: progress.next_try,
            failing_since: progress.failing_since,
            attempts: progress.attempts,
            renewal_failure: progress.failure.clone(),
        }
    }

    /// Puts what the authority sent to use: the next handshake presents it. The
    /// certificate in use, sent once more, keeps its number. Tells whether it is new.
    pub(super) fn install(&self, issued: Issued) -> Result<bool, IssueError> {
        let (mut next, roots) = Current::new(&self.id, issued, &self.grounds, &self.means)?;
        let was = self.current.load();
        let same = next.configs.has_leaf_of(&was.configs);
        next.generation = was.generation + u64::from(!same);
        let now = self.means.clock.now();
        *self.progress() = Progress::after_success(now, next.not_after);
        let brought = roots.is_some() || self.grounds.own_roots().is_some();
        // Roots first: nobody is to be judged by ones that are gone.
        self.grounds.bring(roots);
        self.current.store(Arc::new(next));
        if brought {
            // Tunnels are to be judged by the roots that came or went.
            self.means.trust.announce();
        }
        Ok(!same)
    }

    /// Remembers that renewal failed, for [`Self::info`].
    pub(super) fn renewal_failed(&self, error: IssueError, again_in: Duration) {
        let now = self.means.clock.now();
        let mut progress = self.progress();
        progress.next_try = now + again_in;
        progress.failing_since.get_or_insert(now);
        progress.attempts = progress.attempts.saturating_add(1);
        progress.failure = Some(error);
    }

    pub(super) fn next_try_is(&self, when: SystemTime) {
        self.progress().next_try = when;
    }

    /// Wakes the task that renews this.
    pub(super) fn wanted(&self) -> Wanted {
        Arc::clone(&self.wanted)
    }

    /// How much `trust` presses for a new certificate. `asked_under` is the issuer
    /// that the authority had when the present one was asked for: an authority that
    /// names one issuer and signs with another is not asked for ever.
    pub(super) fn urgency(&self, trust: &Trust, asked_under: Option<&KeyId>) -> Urgency {
        let current = self.current.load();
        let roots = self.grounds.own_roots();
        match current.configs.refusal(trust, roots.as_deref()) {
            // Another certificate would not be of another time, nor better known.
            None => {}
            Some(ConfigError::Refusable(
                HandshakeFailure::Expired
                | HandshakeFailure::NotYetValid
                | HandshakeFailure::RevocationUnknown { .. },
            )) => {}
            Some(why) => {
                tracing::warn!(identity = %self.id, serial = %current.serial, %why,
                    "the certificate in use is not trusted any more: asking for another");
                return Urgency::AtOnce;
            }
        }
        match (trust.issuer(), &current.issuer) {
            (Some(now), Some(then)) if now != then && Some(now) != asked_under => Urgency::Soon,
            _ => Urgency::None,
        }
    }

    /// Ties the task that renews this credential to its life.
    pub(super) fn renewed_by(&self, task: AbortHandle) {
        if let Err(surplus) = self.renewal.set(task) {
            surplus.abort();
        }
    }

    fn in_use(&self) -> Result<arc_swap::Guard<Arc<Current>>, CredentialError> {
        let current = self.current.load();
        if self.means.clock.now() > current.not_after {
            return Err(CredentialError::Expired {
                id: self.id.clone(),
                not_after: current.not_after,
            });
        }
        Ok(current)
    }

    fn no_settings(&self, error: &ConfigError) -> CredentialError {
        CredentialError::Settings {
            id: self.id.clone(),
            why: error.to_string(),
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Credential {
    fn drop(&mut self) {
        if let Some(task) = self.renewal.get() {
            task.abort();
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credential").field(&self.info()).finish()
    }
}
