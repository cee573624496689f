//! A credential in use: the TLS configurations of one identity, exchanged as a
//! whole when its certificate is renewed. Handshakes read it without a lock.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::{ClientConfig, ServerConfig};
use tokio::task::AbortHandle;

use crate::identity::clock::display;
use crate::identity::{Clock, IssueError, Issued, SpiffeId};
use crate::tls::Configs;

use super::renewal;

/// The certificate of one identity and the TLS configurations made from it.
/// Shared by all pods that have the identity; always the newest certificate.
pub struct Credential {
    id: SpiffeId,
    clock: Arc<dyn Clock>,
    current: ArcSwap<Current>,
    renewal: OnceLock<AbortHandle>,
}

/// One certificate's worth, and what has become of renewing it.
struct Current {
    configs: Arc<Configs>,
    serial: Arc<str>,
    not_before: SystemTime,
    not_after: SystemTime,
    renew_at: SystemTime,
    generation: u64,
    renewal_failure: Option<IssueError>,
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
    /// When a new certificate will first be asked for.
    pub renew_at: SystemTime,
    /// 1 for the first certificate, one more with each renewal.
    pub generation: u64,
    /// Why the last attempt at renewal failed, if it did.
    pub renewal_failure: Option<IssueError>,
}

impl Credential {
    pub(super) fn new(
        id: &SpiffeId,
        issued: Issued,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, IssueError> {
        let current = Current::new(id, issued, 1, &clock)?;
        Ok(Self {
            id: id.clone(),
            clock,
            current: ArcSwap::from_pointee(current),
            renewal: OnceLock::new(),
        })
    }

    /// Whose credential this is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Accepts tunnels for this identity; see [`crate::tls::accept`], which
    /// also insists on ALPN. Ask anew for each handshake.
    ///
    /// # Errors
    /// [`CredentialError::Expired`] when the certificate ran out.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, CredentialError> {
        Ok(self.usable()?.configs.server())
    }

    /// Opens tunnels as this identity to a peer that must prove to be
    /// `expected`; see [`crate::tls::connect`], which also insists on ALPN.
    /// Ask anew for each handshake.
    ///
    /// # Errors
    /// [`CredentialError::Expired`] when the certificate ran out.
    pub fn client_config(&self, expected: &SpiffeId) -> Result<Arc<ClientConfig>, CredentialError> {
        Ok(self.usable()?.configs.client(expected))
    }

    /// Number of the certificate in use, counted from 1. A tunnel that was
    /// opened under a smaller number uses an older certificate.
    pub fn generation(&self) -> u64 {
        self.current.load().generation
    }

    /// What can be told about the certificate in use.
    pub fn info(&self) -> SvidInfo {
        let current = self.current.load();
        SvidInfo {
            id: self.id.clone(),
            serial: Arc::clone(&current.serial),
            not_before: current.not_before,
            not_after: current.not_after,
            renew_at: current.renew_at,
            generation: current.generation,
            renewal_failure: current.renewal_failure.clone(),
        }
    }

    /// Puts a renewed certificate to use: the next handshake presents it.
    pub(super) fn install(&self, issued: Issued) -> Result<(), IssueError> {
        let next = Current::new(&self.id, issued, self.generation() + 1, &self.clock)?;
        self.current.store(Arc::new(next));
        Ok(())
    }

    /// Remembers why renewal failed, for [`Self::info`].
    pub(super) fn renewal_failed(&self, error: IssueError) {
        let current = self.current.load();
        self.current.store(Arc::new(Current {
            configs: Arc::clone(&current.configs),
            serial: Arc::clone(&current.serial),
            renewal_failure: Some(error),
            ..**current
        }));
    }

    pub(super) fn renew_at(&self) -> SystemTime {
        self.current.load().renew_at
    }

    /// Time left, none when the certificate has expired.
    pub(super) fn remaining(&self) -> Option<Duration> {
        let not_after = self.current.load().not_after;
        not_after.duration_since(self.clock.now()).ok()
    }

    /// Ties the task that renews this credential to its life.
    pub(super) fn renewed_by(&self, task: AbortHandle) {
        if let Err(surplus) = self.renewal.set(task) {
            surplus.abort();
        }
    }

    fn usable(&self) -> Result<arc_swap::Guard<Arc<Current>>, CredentialError> {
        let current = self.current.load();
        if self.clock.now() > current.not_after {
            return Err(CredentialError::Expired {
                id: self.id.clone(),
                not_after: current.not_after,
            });
        }
        Ok(current)
    }
}

impl Current {
    fn new(
        id: &SpiffeId,
        issued: Issued,
        generation: u64,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, IssueError> {
        let Issued { svid, bundle } = issued;
        if svid.id() != id {
            return Err(IssueError::OtherIdentity {
                requested: id.clone(),
                certified: svid.id().clone(),
            });
        }
        let configs = Configs::new(&svid, &bundle, Arc::clone(clock)).map_err(|source| {
            IssueError::Unusable {
                id: id.clone(),
                source: Arc::new(source),
            }
        })?;
        Ok(Self {
            configs: Arc::new(configs),
            serial: svid.serial().into(),
            not_before: svid.not_before(),
            not_after: svid.not_after(),
            renew_at: renewal::due(clock.now(), svid.not_after()),
            generation,
            renewal_failure: None,
        })
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
