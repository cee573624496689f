//! What can be wrong with certificates in files, by file and with its cure.

use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::identity::{PemError, SvidError};

/// Why certificates in files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The directory cannot be listed.
    #[error("cannot read the directory of certificates {}: {source}; create it, or name another", .dir.display())]
    Directory {
        /// As it was given.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No inotify instance or watch is to be had.
    #[error(
        "cannot watch the directory of certificates {}: {source}; raise fs.inotify.max_user_instances and max_user_watches, which are the usual limits", .dir.display()
    )]
    Watch {
        /// As it was given.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no folder for the workload, and nobody else to ask.
    #[error(
        "there is no folder {} and no other source of certificates; create it with cert-chain.pem, key.pem and root-cert.pem", .folder.display()
    )]
    NoFolder {
        /// Where it would be.
        folder: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}; each workload's folder holds cert-chain.pem, key.pem and root-cert.pem", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something else than a file, or one too large to be a certificate.
    #[error("{} is not a file of at most {max} bytes; put the PEM text there", .path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// The most that is read.
        max: u64,
    },
    /// Others than the agent may read the key.
    #[error(
        "{} has mode {mode:04o}, so others can read the private key; give it mode 0600 (in a Kubernetes volume: defaultMode: 0400), and replace the key if others are about", .path.display()
    )]
    KeyPermissions {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key is somebody else's file.
    #[error(
        "{} belongs to user {owner}, who can change the private key; give it to the agent's user {agent}", .path.display()
    )]
    KeyOwner {
        /// The key's file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The agent's user.
        agent: u32,
    },
    /// The file does not hold certificates.
    #[error("{} cannot be used: {source}; put PEM certificates there", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PemError,
    },
    /// The file holds no private key that TLS could use.
    #[error(
        "{} holds no private key that can be used; put an unencrypted ECDSA, Ed25519 or RSA key there in PEM", .path.display()
    )]
    Key {
        /// The key's file.
        path: PathBuf,
    },
    /// Key and certificate do not belong together.
    #[error(
        "the private key in {} is not that of the certificate in {}; write both files again, from one issuance", .key.display(), .chain.display()
    )]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's.
        chain: PathBuf,
    },
    /// The certificate is another workload's.
    #[error(
        "{} is not this workload's: {source}; have it issued with the workload's SPIFFE ID as its URI, or with a DNS name of the pods' annotation isthmus.dev/tls-names", .path.display()
    )]
    Identity {
        /// The certificate's file.
        path: PathBuf,
        /// What it says and what was expected.
        source: Box<SvidError>,
    },
    /// The certificate has expired.
    #[error("the certificate in {} expired at {}; have it renewed", .path.display(), display(*.at))]
    Expired {
        /// The certificate's file.
        path: PathBuf,
        /// When.
        at: SystemTime,
    },
    /// The certificate is of the future.
    #[error(
        "the certificate in {} is not valid before {}; compare the clocks of this node and of the certificate's issuer", .path.display(), display(*.at)
    )]
    NotYetValid {
        /// The certificate's file.
        path: PathBuf,
        /// When it will be.
        at: SystemTime,
    },
    /// The certificate does not lead to the roots beside it, or not for what it is
    /// needed.
    #[error(
        "peers with {} would refuse the certificate in {}: {why}; put the issuer's certificate behind the leaf, and its root into the former", .roots.display(), .chain.display()
    )]
    Untrusted {
        /// The certificate's file.
        chain: PathBuf,
        /// The roots'.
        roots: PathBuf,
        /// What TLS says.
        why: rustls::Error,
    },
    /// The reading ended early, as at shutdown.
    #[error("reading {} was abandoned: the agent is shutting down", .folder.display())]
    Abandoned {
        /// What was being read.
        folder: PathBuf,
    },
}

fn display(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time).format(&Rfc3339);
    time.unwrap_or_else(|_| "an unknown time".to_owned())
}
