//! An authority elsewhere, as an agent uses it: certificates through Istio's API, trust
//! through our own or from files. The agent makes one [`RemoteCa`], gives it to the
//! certificate store and lets it [follow](RemoteCa::follow) trust.
//!
//! Keys are made here and stay here. What comes back is believed only as far as it was
//! asked for: the certificate must be of our key and our identity. No root is taken
//! from an answer; which roots count is told by `Watch`, over a connection that is
//! itself checked against roots known before, or by files.

pub(super) mod connection;
mod error;
pub(super) mod files;
mod follow;
mod health;
mod link;
mod request;
mod saved;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::identity::{
    BoxFuture, CertificateAuthority, Clock, IssueError, Issued, SpiffeId, Svid, TrustStore,
};
use connection::Endpoint;
use health::Tracker;
use link::Link;
use request::Answer;

pub use error::RemoteError;
pub use health::{Health, TrustFrom};
pub use saved::forget;

/// How long a first certificate waits for the first word of trust, without which it
/// could not be taken into use: both are asked for at the agent's start.
const FIRST_TRUST: Duration = Duration::from_secs(5);

/// Where the authority is, and what is needed to use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteSettings {
    /// `https://<DNS name or address>:<port>`
    pub endpoint: String,
    /// PEM file of the roots that vouch for the authority's own server. With an
    /// authority that does not tell trust, they are the mesh's roots too.
    pub roots_file: PathBuf,
    /// File of the bearer token. Read for each call.
    pub token_file: PathBuf,
    /// PEM file of revocation lists, for an authority that does not tell trust.
    pub crl_file: Option<PathBuf>,
    /// Validity to ask for; `None` leaves it to the authority.
    pub lifetime: Option<Duration>,
    /// The agent's state directory; what was last known of trust is kept below it.
    pub state_dir: PathBuf,
}

/// A certificate authority at the other end of the network.
pub struct RemoteCa {
    settings: RemoteSettings,
    clock: Arc<dyn Clock>,
    link: Link,
    tracker: Tracker,
    following: AtomicBool,
}

impl RemoteCa {
    /// Takes the settings; nothing is read or dialled yet.
    ///
    /// # Errors
    /// [`RemoteError::Endpoint`] when the endpoint is no such URL.
    pub fn new(settings: RemoteSettings, clock: Arc<dyn Clock>) -> Result<Arc<Self>, RemoteError> {
        let endpoint: Endpoint = settings.endpoint.parse()?;
        let link = Link::new(endpoint, &settings, Arc::clone(&clock));
        Ok(Arc::new(Self {
            settings,
            clock,
            link,
            tracker: Tracker::default(),
            following: AtomicBool::new(false),
        }))
    }

    /// Keeps `store` up to date with the mesh's own trust, until the task is aborted:
    /// at once with what was saved, then with what the authority tells, or with the
    /// files when it does not. To be called in a tokio runtime.
    pub fn follow(self: &Arc<Self>, store: Arc<TrustStore>) -> JoinHandle<()> {
        self.following.store(true, Ordering::Relaxed);
        let ca = Arc::clone(self);
        tokio::spawn(async move { follow::follow(&ca, &store).await })
    }

    /// How it goes, for people.
    pub fn health(&self) -> Health {
        self.tracker
            .health(&self.settings.endpoint, self.link.is_open())
    }

    async fn certify(&self, id: &SpiffeId) -> Result<Svid, RemoteError> {
        if id.path().is_some() {
            return Err(RemoteError::Form {
                endpoint: Arc::clone(self.link.endpoint()),
                id: id.clone(),
            });
        }
        let pending = request::Pending::new(id).map_err(|error| self.link.bad_answer(error))?;
        let answer: Answer = self
            .link
            .create_certificate(pending.message(id, self.settings.lifetime))
            .await?;
        pending
            .accept(answer, id, self.clock.now())
            .map_err(|error| self.link.bad_answer(error))
    }
}

impl CertificateAuthority for RemoteCa {
    fn issue<'a>(&'a self, id: &'a SpiffeId) -> BoxFuture<'a, Result<Issued, IssueError>> {
        Box::pin(async move {
            let certified = self.certify(id).await;
            self.tracker.note(&certified, self.clock.now());
            if certified.is_ok() && self.following.load(Ordering::Relaxed) {
                // Without trust in time the store says what it lacks.
                let _ = tokio::time::timeout(FIRST_TRUST, self.tracker.trust_known()).await;
            }
            match certified {
                Ok(svid) => Ok(Issued { svid, bundle: None }),
                Err(error) => Err(IssueError::Authority {
                    id: id.clone(),
                    source: Arc::new(error),
                }),
            }
        })
    }

    fn source(&self, _: &SpiffeId) -> Arc<str> {
        Arc::clone(self.link.endpoint())
    }
}

impl fmt::Debug for RemoteCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteCa")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
