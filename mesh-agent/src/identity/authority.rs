//! The seam to whoever signs certificates. The store calls it; the embedded CA
//! stands behind it now, and a remote authority can.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::{SpiffeId, Svid, TrustBundle};
use crate::tls::ConfigError;

/// A boxed future that another thread may poll.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Certifies workloads. Implementations may take their time and may fail: the
/// store bounds each call with a deadline and tries again.
pub trait CertificateAuthority: Send + Sync {
    /// A new key and certificate for `id`.
    ///
    /// # Errors
    /// [`IssueError::Authority`] with the authority's own error inside.
    fn issue<'a>(&'a self, id: &'a SpiffeId) -> BoxFuture<'a, Result<Issued, IssueError>>;

    /// Where the certificate of `id` comes from, for people: `embedded CA`, the
    /// address of a remote one, a file's path.
    fn source(&self, id: &SpiffeId) -> Arc<str> {
        let _ = id;
        "certificate authority".into()
    }
}

/// What an authority answers.
#[derive(Debug)]
pub struct Issued {
    /// The workload's certificate and key.
    pub svid: Svid,
    /// The roots that the certificate brings to check peers of its own trust domain
    /// against, as a certificate from files does. `None`: the trust store says.
    pub bundle: Option<TrustBundle>,
}

/// Why an identity has no (new) certificate. Cheap to clone, since everybody
/// who waited for the same certificate is told.
#[derive(Clone, Debug, thiserror::Error)]
pub enum IssueError {
    /// The authority refused or could not be asked; the source says which.
    #[error("the certificate authority did not certify {id}: {source}")]
    Authority {
        /// The identity that was asked for.
        id: SpiffeId,
        /// The authority's own error.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// No answer within the deadline.
    #[error("the certificate authority did not answer for {id} within {} s", .after.as_secs())]
    TimedOut {
        /// The identity that was asked for.
        id: SpiffeId,
        /// How long it had.
        after: Duration,
    },
    /// The authority certified somebody else.
    #[error("asked to certify {requested}, the authority certified {certified}")]
    OtherIdentity {
        /// The identity that was asked for.
        requested: SpiffeId,
        /// The identity in the certificate that came.
        certified: SpiffeId,
    },
    /// TLS cannot be set up with what the authority issued.
    #[error("the certificate issued for {id} is unusable: {source}")]
    Unusable {
        /// The identity that was asked for.
        id: SpiffeId,
        /// What is wrong with it.
        source: Arc<ConfigError>,
    },
    /// The task that asked the authority ended early, as at shutdown.
    #[error("certifying {0} was abandoned: the agent is shutting down")]
    Abandoned(SpiffeId),
}
