//! Why an authority elsewhere could not be used: the endpoint, what was tried, and what
//! a person can do about it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tonic::Code;

use super::request::AnswerError;
use crate::ca::api::TrustMessageError;
use crate::identity::SpiffeId;
use crate::tls::HandshakeFailure;

/// What went wrong with a remote authority. Cheap to clone: all who waited for the
/// same connection are told.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RemoteError {
    /// The configured endpoint.
    #[error(
        "the authority's endpoint {0:?} is not of the form https://<DNS name or address>:<port>"
    )]
    Endpoint(String),
    /// A file that is needed to ask.
    #[error("cannot use the {what} in {path}: {why}")]
    File {
        /// What it holds.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong, and the cure.
        why: Arc<str>,
    },
    /// No TCP connection.
    #[error(
        "cannot connect to the authority {endpoint}: {source}; see that it runs there and can be reached from this node"
    )]
    Connect {
        /// Where.
        endpoint: Arc<str>,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// A TCP connection, and no TLS.
    #[error("the authority {endpoint} cannot be trusted: {failure}; {} must hold the roots of its server's certificate, and the endpoint a name in it", .roots.display())]
    Handshake {
        /// Where.
        endpoint: Arc<str>,
        /// What failed.
        failure: Arc<HandshakeFailure>,
        /// The roots it was checked against, beside those of `Watch`.
        roots: PathBuf,
    },
    /// It did not answer in time.
    #[error("the authority {endpoint} did not {what} within {} s", .after.as_secs())]
    TimedOut {
        /// Where.
        endpoint: Arc<str>,
        /// What it should have done.
        what: &'static str,
        /// How long it had.
        after: Duration,
    },
    /// It knows us not, or does not allow it.
    #[error("the authority {endpoint} refused ({code:?}): {reason}; the token came from {}", .token_file.display())]
    Refused {
        /// Where.
        endpoint: Arc<str>,
        /// Unauthenticated or permission denied.
        code: Code,
        /// Its own words.
        reason: String,
        /// The file with which the call was made.
        token_file: PathBuf,
    },
    /// Any other failure that it told, or that ended the call.
    #[error("the call to the authority {endpoint} failed ({code:?}): {reason}")]
    Call {
        /// Where.
        endpoint: Arc<str>,
        /// gRPC's code.
        code: Code,
        /// Its own words, or what became of the connection.
        reason: String,
    },
    /// It certifies IDs of Istio's form alone.
    #[error(
        "{id} is not asked of the authority {endpoint}, which certifies /ns/<namespace>/sa/<service account> only: remove spec.spiffeIdTemplate from the MeshConfig, or give the workload's certificate as files (--certificates)"
    )]
    Form {
        /// Where.
        endpoint: Arc<str>,
        /// The identity.
        id: SpiffeId,
    },
    /// It answered something that must not be used.
    #[error("the authority {endpoint} gave an unusable answer: {error}")]
    Answer {
        /// Where.
        endpoint: Arc<str>,
        /// What is wrong with it.
        error: AnswerError,
    },
    /// It told trust that must not be used.
    #[error("the authority {endpoint} told unusable trust: {error}")]
    Trust {
        /// Where.
        endpoint: Arc<str>,
        /// What is wrong with it.
        error: TrustMessageError,
    },
}
