//! What can go wrong in an authority, each with its cure.

use std::io;
use std::path::PathBuf;

use crate::identity::{SpiffeId, TrustDomain};

/// Why the authority's directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a certificate was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The identity was revoked. The caller's fault: permission denied.
    #[error("{id} is revoked: `mesh-agent ca restore --identity {id}` lifts that")]
    Revoked {
        /// The identity.
        id: SpiffeId,
    },
    /// The authority vouches for its own trust domain only. The caller's fault:
    /// permission denied.
    #[error("{id} is not of trust domain {ours}, this authority's")]
    OtherTrustDomain {
        /// The identity that was asked for.
        id: SpiffeId,
        /// The authority's trust domain.
        ours: TrustDomain,
    },
    /// The directory cannot be used. Our fault: unavailable.
    #[error(transparent)]
    Authority(#[from] CaError),
}
