//! Who may ask an authority for what. The server asks an [`Authorizer`] before it
//! reads a request's body, and again when it knows which identity is wanted.
//!
//! In a mesh that is configured by a folder, a node proves itself with a token of its
//! own, and gets certificates for the pods that the folder puts on it:
//! [`FolderAuthorizer`]. In a cluster it proves itself with its agent's service account,
//! and gets certificates for the pods that the API binds to it: [`ClusterAuthorizer`].

mod cluster;
mod placement;

use std::error::Error;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::ConfigError;
use crate::identity::{BoxFuture, SpiffeId};

use super::Requester;
use super::tokens::{TokenError, TokenReader};
pub use cluster::{Account, AccountError, ClusterAuthorizer};
use placement::Placements;

/// How long a pod that is not (yet) placed on the asking node is waited for. Agent and
/// authority learn of a new pod from the same folder, and either may be first; the
/// folder source tells a change within half a second.
const PLACEMENT_WAIT: Duration = Duration::from_secs(2);

/// Decides who may ask. Both questions may take their time: the server bounds them
/// with its deadline for the whole call.
pub trait Authorizer: Send + Sync {
    /// Who the bearer of `token` is, who calls from the address `from`.
    fn authenticate<'a>(
        &'a self,
        token: &'a str,
        from: IpAddr,
    ) -> BoxFuture<'a, Result<Requester, Denial>>;

    /// Whether `caller` may have a certificate for `id`.
    fn authorize<'a>(
        &'a self,
        caller: &'a Requester,
        id: &'a SpiffeId,
    ) -> BoxFuture<'a, Result<(), Denial>>;
}

/// Why somebody does not get what was asked for. The text goes to the caller.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Denial {
    /// No proof at all.
    #[error("the call carries no bearer token in its authorization metadata")]
    NoToken,
    /// A proof that proves nothing.
    #[error("the token is none that this authority accepts, or it was revoked")]
    UnknownToken,
    /// The token is not known, and too many of its source were refused lately.
    #[error(
        "too many tokens from this address were refused lately or are being reviewed: ask again \
         in some seconds"
    )]
    TooMany,
    /// The token is good, and somebody else's.
    #[error(
        "the token is of {found}, and this authority certifies for agents of the service \
         account {wanted} only: correct the agents' serviceAccountName, or --agent-account"
    )]
    OtherAccount {
        /// Whose it is, as the API server calls them.
        found: String,
        /// Whose would be accepted.
        wanted: Account,
    },
    /// The token is an agent's, and it does not say of which node.
    #[error(
        "the token is not bound to a pod on a node: mount a projected service account token \
         into the agent's pod"
    )]
    NoNode,
    /// The caller is known, and no such pod runs on its node.
    #[error("no pod on node {node} is configured with the identity {id}")]
    NotOnNode {
        /// The caller's node.
        node: Arc<str>,
        /// What it asked for.
        id: SpiffeId,
    },
    /// It cannot be decided at the moment. The cause is for the authority's own log.
    #[error("the authority cannot check its callers at the moment; its log says why")]
    Unavailable(#[source] Arc<dyn Error + Send + Sync>),
}

/// Node tokens and the placement of pods, for a mesh that a folder configures.
pub struct FolderAuthorizer {
    tokens: Arc<TokenReader>,
    placements: Placements,
}

impl FolderAuthorizer {
    /// Reads node tokens from the CA directory `ca` and pods from the folder `config`,
    /// which is watched for as long as this lives. To be called in a tokio runtime.
    /// Nobody is authorised before the first reading, which is waited for.
    ///
    /// # Errors
    /// When the folder cannot be listed or watched.
    pub fn open(ca: &Path, config: &Path) -> Result<Self, ConfigError> {
        Ok(Self {
            tokens: Arc::new(TokenReader::new(ca)),
            placements: Placements::follow(config)?,
        })
    }
}

impl Authorizer for FolderAuthorizer {
    fn authenticate<'a>(
        &'a self,
        token: &'a str,
        _: IpAddr,
    ) -> BoxFuture<'a, Result<Requester, Denial>> {
        let (tokens, token) = (Arc::clone(&self.tokens), token.to_owned());
        Box::pin(async move {
            // It may have to read the file of tokens again.
            let found = tokio::task::spawn_blocking(move || tokens.node_of(&token)).await;
            match found {
                Ok(Ok(Some(node))) => Ok(Requester { node }),
                Ok(Ok(None)) => Err(Denial::UnknownToken),
                Ok(Err(error)) => Err(unavailable(error)),
                Err(error) => Err(Denial::Unavailable(Arc::new(error))),
            }
        })
    }

    fn authorize<'a>(
        &'a self,
        caller: &'a Requester,
        id: &'a SpiffeId,
    ) -> BoxFuture<'a, Result<(), Denial>> {
        Box::pin(async move {
            let placed = self.placements.wait_for(&caller.node, id);
            match tokio::time::timeout(PLACEMENT_WAIT, placed).await {
                Ok(()) => Ok(()),
                Err(_) => Err(Denial::NotOnNode {
                    node: Arc::clone(&caller.node),
                    id: id.clone(),
                }),
            }
        })
    }
}

fn unavailable(error: TokenError) -> Denial {
    Denial::Unavailable(Arc::new(error))
}

#[cfg(test)]
mod tests;
