//! The way to the Kubernetes API, for everything here that speaks to it: the agent's
//! source of configuration, the authority's authorizer, the writer of statuses, and the
//! installing commands. Each makes its client here.

mod connect;
#[cfg(test)]
pub(crate) mod testing;

use kube::{Client, Config};

#[cfg(test)]
pub(crate) use connect::{Liveness, client_with};

/// Why the Kubernetes API cannot be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// Neither a service account's files nor a kubeconfig say where it is.
    #[error(
        "cannot tell where the Kubernetes API is: {}; run this in a pod with a service account, \
         or set KUBECONFIG to a readable kubeconfig",
        without_excerpt(.0)
    )]
    Config(#[source] kube::config::InferConfigError),
    /// What they say makes no client.
    #[error("cannot make a client of the Kubernetes API: {0}; correct the kubeconfig")]
    Client(#[source] kube::Error),
    /// The kubeconfig has it behind a proxy.
    #[error(
        "the Kubernetes API is behind the proxy {0}, which is not spoken to from here: use a \
         kubeconfig without proxy-url"
    )]
    Proxy(http::Uri),
}

/// Who asks again where the server says that it is overloaded or not there (429, 503, 504).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retries {
    /// The client, up to fifteen times, for minutes: what a person's command wants.
    Client,
    /// The caller, which is told at once: what says of itself whether the API answers.
    Caller,
}

/// A client of the API server that this process is told of: by its pod's service account,
/// or by a kubeconfig (`KUBECONFIG`, `~/.kube/config`). A connection whose other end has gone
/// without a word fails within half a minute. To be called in a tokio runtime.
///
/// # Errors
/// See [`KubernetesError`]; nothing is dialled yet.
pub async fn client(retries: Retries) -> Result<Client, KubernetesError> {
    let config = Config::infer().await.map_err(KubernetesError::Config)?;
    connect::client_with(config, connect::LIVENESS, retries)
}

/// The error without what follows its first line: there a file that is no kubeconfig is quoted, and
/// it may hold secrets.
fn without_excerpt(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    match text.split_once('\n') {
        // With the parenthesis that ends the whole.
        Some((first, _)) => format!("{first})"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use kube::config::Kubeconfig;

    use super::without_excerpt;

    #[test]
    fn a_broken_kubeconfig_is_not_quoted() {
        let broken = "users:\n- token: hunter2\n nonsense: [";
        let error = Kubeconfig::from_yaml(broken).unwrap_err();
        // Or there is nothing to be left out.
        assert!(error.to_string().contains("hunter2"), "{error}");
        let said = without_excerpt(&error);
        assert!(!said.contains("hunter2") && !said.contains('\n'), "{said}");
        assert!(said.contains("line 2"), "{said}");
    }
}
