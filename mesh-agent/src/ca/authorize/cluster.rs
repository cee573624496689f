//! Who may ask an authority in a cluster for what. The Kubernetes API server says whose a
//! token is (a TokenReview) and which pods are bound to which node.
//!
//! A node's agent presents a token of its service account, made for this authority alone
//! (its audience) and bound to the agent's pod: so it names the node. What an agent can get
//! with it is what runs on its node, as for the kubelet there.

mod answers;
mod pods;
mod review;

use std::sync::Arc;
use std::time::Duration;

use kube::Client;

use super::{Authorizer, Denial};
use crate::ca::Requester;
use crate::identity::{BoxFuture, SpiffeId};
use answers::Answers;
use pods::Pods;
use review::Reviewer;
pub use review::{Account, AccountError};

/// Longest wait for the API server, for each of both questions: together they stay below
/// the server's deadline for a whole call.
const PATIENCE: Duration = Duration::from_secs(5);

/// Decides by the Kubernetes API. Whatever that does not answer is not granted.
pub struct ClusterAuthorizer {
    reviewer: Reviewer,
    answers: Answers,
    pods: Pods,
}

impl ClusterAuthorizer {
    /// Asks the API server of `client`, and follows its pods for as long as this lives.
    /// Tokens must be for `audience` and of `agents`. To be called in a tokio runtime.
    pub fn new(client: Client, audience: &str, agents: Account) -> Self {
        Self {
            pods: Pods::follow(client.clone()),
            reviewer: Reviewer::new(client, audience, agents),
            answers: Answers::default(),
        }
    }
}

impl Authorizer for ClusterAuthorizer {
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Requester, Denial>> {
        Box::pin(async move {
            if let Some(node) = self.answers.get(token) {
                return Ok(Requester { node });
            }
            let node = in_time(self.reviewer.node_of(token)).await?;
            self.answers.keep(token, &node);
            Ok(Requester { node })
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
            if self.pods.knows(&wanted) || in_time(self.pods.ask(&wanted)).await? {
                return Ok(());
            }
            Err(Denial::NotOnNode {
                node: Arc::clone(&caller.node),
                id: id.clone(),
            })
        })
    }
}

/// The API server answers in time, or nothing is granted.
async fn in_time<T>(question: impl Future<Output = Result<T, Denial>>) -> Result<T, Denial> {
    let answered = tokio::time::timeout(PATIENCE, question).await;
    answered.unwrap_or_else(|_| Err(Denial::Unavailable(Arc::new(ApiError::Slow))))
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

/// Turns an error of the API into a denial.
fn unavailable(action: &'static str) -> impl FnOnce(kube::Error) -> Denial {
    move |source| Denial::Unavailable(Arc::new(ApiError::Failed { action, source }))
}

#[cfg(test)]
mod tests;
