//! Whose a token is, and of which node: the API server's TokenReview. Owned by
//! [`super::ClusterAuthorizer`].

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, PostParams};

use super::{Denial, Refusal, failed};
use crate::ca::Requester;

/// The claims of a bound token, as Kubernetes puts them into `extra`. The node's name is
/// there since 1.30; the pod's since 1.20.
pub(super) const NODE: &str = "authentication.kubernetes.io/node-name";
pub(super) const POD: &str = "authentication.kubernetes.io/pod-name";
pub(super) const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    namespace: Arc<str>,
    name: Arc<str>,
}

/// A text that names no service account.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form NAMESPACE/NAME of a service account")]
pub struct AccountError(String);

impl FromStr for Account {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, AccountError> {
        let valid = |name: &str| {
            let allowed =
                |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
            !name.is_empty() && name.len() <= 253 && name.bytes().all(allowed)
        };
        match text.split_once('/') {
            Some((namespace, name)) if valid(namespace) && valid(name) => Ok(Self {
                namespace: namespace.into(),
                name: name.into(),
            }),
            _ => Err(AccountError(text.to_owned())),
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Account {
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// As the API server calls it.
    fn username(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }
}

/// The agent that bears a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bearer {
    pub(super) node: Arc<str>,
    /// The UID of its pod, which the token is bound to.
    pub(super) pod: Option<Arc<str>>,
}

impl From<Bearer> for Requester {
    fn from(bearer: Bearer) -> Self {
        Self { node: bearer.node }
    }
}

/// Asks the API server about tokens.
pub(super) struct Reviewer {
    client: Client,
    audience: String,
    agents: Account,
}

impl Reviewer {
    pub(super) fn new(client: Client, audience: &str, agents: Account) -> Self {
        Self {
            client,
            audience: audience.to_owned(),
            agents,
        }
    }

    /// The agent that bears `token`.
    pub(super) async fn bearer(&self, token: &str) -> Result<Bearer, Refusal> {
        let user = self.user(token).await?;
        let username = user.username.unwrap_or_default();
        if username != self.agents.username() {
            return Err(Refusal::Denied(Denial::OtherAccount {
                found: username,
                wanted: self.agents.clone(),
            }));
        }
        let extra = user.extra.unwrap_or_default();
        let uid = one(&extra, POD_UID);
        let node = match (one(&extra, NODE), one(&extra, POD), uid) {
            (Some(node), _, _) => node.into(),
            (None, Some(pod), Some(uid)) => self.node_of_pod(pod, uid).await?,
            _ => return Err(Refusal::Denied(Denial::NoNode)),
        };
        Ok(Bearer {
            node,
            pod: uid.map(Into::into),
        })
    }

    /// Whom the API server takes the bearer for.
    async fn user(&self, token: &str) -> Result<UserInfo, Refusal> {
        let question = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![self.audience.clone()]),
                token: token.to_owned(),
            },
            ..TokenReview::default()
        };
        let asked = Api::<TokenReview>::all(self.client.clone())
            .create(&PostParams::default(), &question)
            .await;
        let said = asked.map_err(failed("review a token"))?.status;
        let said = said.unwrap_or_default();
        if said.authenticated != Some(true) {
            if let Some(why) = said.error {
                tracing::debug!(%why, "the API server does not accept a token");
            }
            return Err(Denial::UnknownToken.into());
        }
        // An authenticator that knows nothing of audiences leaves them out, and may accept
        // tokens that were made for somebody else.
        let audiences = said.audiences.unwrap_or_default();
        match said.user {
            Some(user) if audiences.contains(&self.audience) => Ok(user),
            _ => Err(Denial::UnknownToken.into()),
        }
    }

    /// Where the pod runs to which the token is bound.
    async fn node_of_pod(&self, name: &str, uid: &str) -> Result<Arc<str>, Refusal> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.agents.namespace);
        let found = pods
            .get_opt(name)
            .await
            .map_err(failed("read the agent's pod"))?;
        let pod = found.filter(|pod| pod.metadata.uid.as_deref() == Some(uid));
        let node = pod.and_then(|pod| pod.spec).and_then(|spec| spec.node_name);
        node.filter(|node| !node.is_empty())
            .map(Into::into)
            .ok_or(Refusal::Denied(Denial::NoNode))
    }
}

/// The one value of a claim.
fn one<'a>(extra: &'a BTreeMap<String, Vec<String>>, claim: &str) -> Option<&'a str> {
    match extra.get(claim)?.as_slice() {
        [one] if !one.is_empty() => Some(one),
        _ => None,
    }
}
