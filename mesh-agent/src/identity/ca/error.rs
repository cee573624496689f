//! What can be wrong with the embedded authority, each with its cure. Shown to
//! the person who starts the agent.

use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::identity::clock::display;
use crate::identity::{SpiffeId, SvidError, TrustDomain};

/// Why the embedded authority cannot be opened.
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
    /// Somebody else could put another root in place.
    #[error("{} can be written by others than its owner (mode {mode:04o}): chmod 700 {}", .path.display(), .path.display())]
    DirectoryPermissions {
        /// The state directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else may have read the key.
    #[error("the CA's key {} is open to others than its owner (mode {mode:04o}): chmod 600 {}, and consider it known to them", .path.display(), .path.display())]
    KeyPermissions {
        /// The key.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is not ours.
    #[error("{} belongs to user {owner}, the agent runs as user {agent}: chown {agent} {}", .path.display(), .path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// User id of its owner.
        owner: u32,
        /// User id of the agent.
        agent: u32,
    },
    /// Half of the root is gone.
    #[error("{} is missing beside {}: restore it, or remove both to start with a new root", .missing.display(), .present.display())]
    Incomplete {
        /// The file that is there.
        present: PathBuf,
        /// The file that is not.
        missing: PathBuf,
    },
    /// A file is not what its name says.
    #[error("{} is not {expected}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What was expected in it.
        expected: &'static str,
    },
    /// Certificate and key are of different roots.
    #[error("{} and {} do not belong together: restore the one that was replaced", .certificate.display(), .key.display())]
    Mismatch {
        /// The root certificate.
        certificate: PathBuf,
        /// The key beside it.
        key: PathBuf,
    },
    /// The root vouches for another mesh.
    #[error("the root in {} is of trust domain {found:?}, this mesh is {configured}: use another state directory, or set trustDomain to the root's", .path.display())]
    OtherTrustDomain {
        /// The root certificate.
        path: PathBuf,
        /// Its URI, or why it has none.
        found: String,
        /// What the mesh is configured to be.
        configured: TrustDomain,
    },
    /// The root cannot sign today.
    #[error("the root in {} is valid from {} to {} only: set the clock, or remove it and its key to start with a new root", .path.display(), display(*.not_before), display(*.not_after))]
    OutOfValidity {
        /// The root certificate.
        path: PathBuf,
        /// Start of its validity.
        not_before: SystemTime,
        /// End of its validity.
        not_after: SystemTime,
    },
    /// A root could not be made.
    #[error("cannot make a root certificate: {0}")]
    Generate(#[from] SigningError),
}

/// Why the embedded authority did not sign.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// It vouches for its own trust domain only.
    #[error("{id} is not of trust domain {ours}, the embedded CA's")]
    OtherTrustDomain {
        /// The identity that was asked for.
        id: SpiffeId,
        /// The authority's trust domain.
        ours: TrustDomain,
    },
    /// Its own certificate ran out while the agent was running.
    #[error("the root expired at {}", display(*.0))]
    RootExpired(SystemTime),
    /// The system gave no randomness.
    #[error("the system gave no random bytes")]
    NoRandomness,
    /// Key generation or signing failed.
    #[error(transparent)]
    Crypto(#[from] rcgen::Error),
    /// What was signed is not an SVID.
    #[error(transparent)]
    Svid(#[from] SvidError),
}
