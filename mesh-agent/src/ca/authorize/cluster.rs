//! Who may ask an authority in a cluster for what. The Kubernetes API server says whose a
//! token is (a TokenReview) and which pods are bound to which node.
//!
//! A node's agent presents a token of its service account, made for this authority alone
//! (its audience) and bound to the agent's pod: so it names the node. What an agent can get
//! with it is what runs on its node, as for the kubelet there.
//!
//! While the API server is away, certificates are still renewed, by what it said last: a
//! token that it accepted is good until the token itself expires, if the agent's pod was
//! there when pods were last heard of; and what then ran on the node still does. Nothing
//! else is granted: no token that was not seen before, no pod that was not. An API server
//! that answers is always the one that decides.
//!
//! Callers that prove nothing are bounded: a refusal is kept for a few seconds, and reviews of
//! tokens that were never accepted are counted by source.

mod answers;
mod denials;
mod pods;
mod review;
mod reviews;
mod token;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;

use super::{Authorizer, Denial};
use crate::ca::Requester;
use crate::identity::{BoxFuture, SpiffeId};
use answers::Answers;
use denials::Denials;
use pods::Pods;
pub use review::{Account, AccountError};
use review::{Bearer, Reviewer};
use reviews::Reviews;

/// Longest wait for the API server, for each of both questions: together they stay below
/// the server's deadline for a whole call.
const PATIENCE: Duration = Duration::from_secs(5);

/// Decides by the Kubernetes API, and while that is away by what it said last.
pub struct ClusterAuthorizer {
    agents: Account,
    reviewer: Reviewer,
    answers: Answers,
    denials: Denials,
    reviews: Reviews,
    pods: Pods,
}

impl ClusterAuthorizer {
    /// Asks the API server of `client`, and follows its pods for as long as this lives.
    /// Tokens must be for `audience` and of `agents`. To be called in a tokio runtime.
    pub fn new(client: Client, audience: &str, agents: Account) -> Self {
        Self {
            pods: Pods::follow(client.clone()),
            reviewer: Reviewer::new(client, audience, agents.clone()),
            agents,
            answers: Answers::default(),
            denials: Denials::default(),
            reviews: Reviews::default(),
        }
    }
}

impl Authorizer for ClusterAuthorizer {
    fn authenticate<'a>(
        &'a self,
        token: &'a str,
        from: IpAddr,
    ) -> BoxFuture<'a, Result<Requester, Denial>> {
        Box::pin(async move {
            if let Some(bearer) = self.answers.fresh(token) {
                return Ok(bearer.into());
            }
            if let Some(denial) = self.denials.recent(token) {
                return Err(denial);
            }
            let is_known = self.answers.was_good(token);
            let review = match self.reviews.start(from) {
                None if !is_known => return Err(Denial::TooMany),
                review => review,
            };
            match in_time(self.reviewer.bearer(token)).await {
                Ok(bearer) => {
                    self.answers.keep(token, &bearer);
                    if let Some(review) = review {
                        review.accepted();
                    }
                    Ok(bearer.into())
                }
                Err(Refusal::Denied(denial)) => {
                    self.answers.forget(token);
                    if !is_known {
                        self.denials.keep(token, &denial);
                    }
                    Err(denial)
                }
                Err(Refusal::Unanswered(error)) => match self.known_before(token, &error) {
                    Some(bearer) => Ok(bearer.into()),
                    None => Err(error.into()),
                },
            }
        })
    }

    fn authorize<'a>(
        &'a self,
        caller: &'a Requester,
        id: &'a SpiffeId,
    ) -> BoxFuture<'a, Result<(), Denial>> {
        Box::pin(async move {
            let wanted = pods::Place {
                node: &caller.node,
                namespace: id.namespace(),
                account: id.service_account(),
            };
            if self.pods.knows(&wanted) {
                return Ok(());
            }
            match in_time(self.pods.ask(&wanted)).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(Denial::NotOnNode {
                    node: Arc::clone(&caller.node),
                    id: id.clone(),
                }),
                Err(Refusal::Denied(denial)) => Err(denial),
                Err(Refusal::Unanswered(error)) if error.is_away() && self.pods.knew(&wanted) => {
                    tracing::info!(node = %caller.node, identity = %id, %error, "the pods of a node are taken as they were last heard of");
                    Ok(())
                }
                Err(Refusal::Unanswered(error)) => Err(error.into()),
            }
        })
    }
}

impl ClusterAuthorizer {
    /// Whom the API server took the bearer for when it was last asked, if it is away now.
    fn known_before(&self, token: &str, error: &ApiError) -> Option<Bearer> {
        let bearer = self.answers.before(token).filter(|_| error.is_away())?;
        let place = pods::Place {
            node: &bearer.node,
            namespace: self.agents.namespace(),
            account: self.agents.name(),
        };
        // A token that is bound to no pod outlives what it was made for.
        let pod = bearer.pod.as_deref()?;
        if !self.pods.knew_pod(pod, &place) {
            return None;
        }
        tracing::info!(node = %bearer.node, %error, "an agent is known by a token that the Kubernetes API has accepted before");
        Some(bearer)
    }
}

/// The API server answers in time, or nothing is known.
async fn in_time<T>(question: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    let answered = tokio::time::timeout(PATIENCE, question).await;
    answered.unwrap_or_else(|_| Err(ApiError::Slow.into()))
}

/// Why a question to the API server brings nobody in.
#[derive(Debug)]
enum Refusal {
    /// The answer was no.
    Denied(Denial),
    /// There was no answer to the question.
    Unanswered(ApiError),
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Unanswered(error)
    }
}

/// Why the API server's answer is of no use. For the authority's own log.
#[derive(Debug, thiserror::Error)]
enum ApiError {
    #[error("the Kubernetes API did not answer within {} s", PATIENCE.as_secs())]
    Slow,
    #[error(
        "cannot {action}: {source}; see that the Kubernetes API is reachable and that this \
         authority's service account may do so"
    )]
    Failed {
        action: &'static str,
        source: kube::Error,
    },
}

impl ApiError {
    /// Whether there is nobody to ask. An API server that says no, such as to an authority
    /// whose permission was withdrawn, is not away: then nothing that it said before counts.
    fn is_away(&self) -> bool {
        match self {
            Self::Slow => true,
            Self::Failed { source, .. } => match source {
                kube::Error::Api(status) => status.code >= 500 || status.code == 429,
                kube::Error::HyperError(_) | kube::Error::Service(_) => true,
                _ => false,
            },
        }
    }
}

impl From<ApiError> for Denial {
    fn from(error: ApiError) -> Self {
        Self::Unavailable(Arc::new(error))
    }
}

/// Says what was asked when the API failed.
fn failed(action: &'static str) -> impl FnOnce(kube::Error) -> ApiError {
    move |source| ApiError::Failed { action, source }
}

#[cfg(test)]
mod tests;
