//! The way to the Kubernetes API, for everything here that speaks to it: the agent's
//! source of configuration, the authority's authorizer, the writer of statuses, and the
//! installing commands. Each makes its client here.

#[cfg(test)]
pub(crate) mod testing;

use kube::{Client, Config};

/// Why the Kubernetes API cannot be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// Neither a service account's files nor a kubeconfig say where it is.
    #[error(
        "cannot tell where the Kubernetes API is: {0}; run this in a pod with a service account, \
         or set KUBECONFIG to a readable kubeconfig"
    )]
    Config(#[source] kube::config::InferConfigError),
    /// What they say makes no client.
    #[error("cannot make a client of the Kubernetes API: {0}; correct the kubeconfig")]
    Client(#[source] kube::Error),
}

/// A client of the API server that this process is told of: by its pod's service account,
/// or by a kubeconfig (`KUBECONFIG`, `~/.kube/config`). To be called in a tokio runtime.
///
/// # Errors
/// See [`KubernetesError`]; nothing is dialled yet.
pub async fn client() -> Result<Client, KubernetesError> {
    let config = Config::infer().await.map_err(KubernetesError::Config)?;
    Client::try_from(config).map_err(KubernetesError::Client)
}
