//! What can go wrong in an authority, each with its cure. Shown to the person who
//! starts the agent or works with `mesh-agent ca`, and to who asked for a certificate.

use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use super::CsrError;
use crate::identity::clock::display;
use crate::identity::{SpiffeId, SvidError, TrustDomain};

/// Why an authority's directory cannot be used, or something cannot be done in it.
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
    /// There is no authority.
    #[error("there is no authority in {}: make one with `mesh-agent ca init --dir {}`", .dir.display(), .dir.display())]
    NotInitialised {
        /// The directory.
        dir: PathBuf,
    },
    /// There is one already.
    #[error("there is an authority in {} already: see `mesh-agent ca rotate --help` to replace its keys, or use another --dir", .dir.display())]
    AlreadyInitialised {
        /// The directory.
        dir: PathBuf,
    },
    /// Somebody else could read keys or put others in place.
    #[error("{} is open to others than its owner (mode {mode:04o}): chmod 700 {}", .path.display(), .path.display())]
    DirectoryPermissions {
        /// The directory.
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
    #[error("{} belongs to user {owner}, mesh-agent runs as user {agent}: chown {agent} {}", .path.display(), .path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// User id of its owner.
        owner: u32,
        /// User id of this process.
        agent: u32,
    },
    /// The state of an authority that was in use is gone.
    #[error("{} is missing beside {}: restore it from a backup, or remove the directory to start with a new authority", .missing.display(), .present.display())]
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
    /// Certificate and key do not fit.
    #[error("{} and {} do not belong together: restore the one that was replaced", .certificate.display(), .key.display())]
    Mismatch {
        /// The certificate.
        certificate: PathBuf,
        /// The key beside it.
        key: PathBuf,
    },
    /// The authority vouches for another mesh.
    #[error("the authority in {} is of trust domain {found}, this mesh is {configured}: use another state directory, or set trustDomain to the authority's", .path.display())]
    OtherTrustDomain {
        /// The directory.
        path: PathBuf,
        /// Its trust domain.
        found: TrustDomain,
        /// What the mesh is configured to be.
        configured: TrustDomain,
    },
    /// A line of the journal cannot be read.
    #[error("line {line} of {} is damaged: restore the file from a backup, or move that line to another file and revoke by identity what it may have named", .path.display())]
    JournalDamaged {
        /// The journal.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// Keys or certificates could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] MakeError),
    /// The root's key is not here.
    #[error("the key of the root {root} is not in {}: have an intermediate signed with `--csr` and `--chain`", .dir.display())]
    NoRootKey {
        /// Name of the root.
        root: String,
        /// The directory.
        dir: PathBuf,
    },
    /// A chain that was brought is not the one that was asked for.
    #[error("{} does not fit: {reason}", .path.display())]
    Chain {
        /// The chain.
        path: PathBuf,
        /// What is wrong, and what is right.
        reason: String,
    },
    /// A request that was brought is not signed.
    #[error("the request in {} is refused: {source}", .path.display())]
    Request {
        /// The request.
        path: PathBuf,
        /// Why.
        source: CsrError,
    },
    /// No request waits for its chain.
    #[error("no request waits in {}: make one with `--csr` first", .dir.display())]
    NothingPending {
        /// The directory.
        dir: PathBuf,
    },
    /// A request waits for its chain, where an authority was to be made or used.
    #[error("a request waits for its chain in {}/pending: go on with `mesh-agent ca init --chain FILE --roots FILE`, or remove that to have a root made here", .dir.display())]
    ChainAwaited {
        /// The directory.
        dir: PathBuf,
    },
    /// A rotation waits to be ended.
    #[error("a rotation of the {what} is under way: {cure}")]
    RotationUnderWay {
        /// What is rotated.
        what: &'static str,
        /// What ends it.
        cure: &'static str,
    },
    /// No rotation waits for this step.
    #[error("{0}")]
    NoRotation(&'static str),
    /// Certificates of the old root are in use.
    #[error("{count} certificates below the old root are valid, the last until {}: wait, or drop the root at once with --force, which cuts who has no new one", display(*.until))]
    StillInUse {
        /// How many.
        count: usize,
        /// End of the last.
        until: SystemTime,
    },
    /// The journal has no such certificate.
    #[error("no certificate with the serial {serial} was issued in {}: see `mesh-agent ca list --all`", .dir.display())]
    UnknownSerial {
        /// The serial in hex.
        serial: String,
        /// The directory.
        dir: PathBuf,
    },
    /// The identity was not revoked.
    #[error("{id} is not revoked")]
    NotRevoked {
        /// The identity.
        id: String,
    },
}

/// Why a key, a certificate or a list could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The system gave no randomness.
    #[error("the system gave no random bytes")]
    NoRandomness,
    /// Key generation or signing failed.
    #[error(transparent)]
    Crypto(#[from] rcgen::Error),
    /// A serial number that is not hex.
    #[error("{0:?} is not a serial number in hex")]
    Serial(String),
}

/// Whose fault it is that a certificate was not signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request is wrong: invalid argument.
    Request,
    /// The caller may not have this certificate: permission denied.
    Denied,
    /// The authority cannot sign now: unavailable.
    Authority,
}

/// Why a certificate was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The request does not pass.
    #[error(transparent)]
    Request(#[from] CsrError),
    /// The identity was revoked.
    #[error("{id} is revoked: `mesh-agent ca restore --identity {id}` lifts that")]
    Revoked {
        /// The identity.
        id: SpiffeId,
    },
    /// The authority vouches for its own trust domain only.
    #[error("{id} is not of trust domain {ours}, this authority's")]
    OtherTrustDomain {
        /// The identity that was asked for.
        id: SpiffeId,
        /// The authority's trust domain.
        ours: TrustDomain,
    },
    /// A server without a name.
    #[error("a server's certificate needs a DNS name or an IP address: give one with --name")]
    NoNames,
    /// Its intermediate ran out.
    #[error("the intermediate expired at {}: replace it with `mesh-agent ca rotate intermediate --now`", display(*.0))]
    Expired(SystemTime),
    /// The directory cannot be used.
    #[error(transparent)]
    Authority(#[from] CaError),
    /// The certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] MakeError),
    /// What was signed is not an SVID.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// The task that signed ended early, as at shutdown.
    #[error("signing was abandoned: the process is shutting down")]
    Abandoned,
}

impl SignError {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Request(_) | Self::NoNames => Fault::Request,
            Self::Revoked { .. } | Self::OtherTrustDomain { .. } => Fault::Denied,
            Self::Expired(_)
            | Self::Authority(_)
            | Self::Make(_)
            | Self::Svid(_)
            | Self::Abandoned => Fault::Authority,
        }
    }
}
