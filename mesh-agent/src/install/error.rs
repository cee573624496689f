//! Why an installation, or taking one out, did not come to its end.

use std::error::Error;

use super::kustomize::BuildError;
use super::manifest::Manifest;
use crate::cause::with_causes;

/// One sentence for the person who asked for it, with the cure.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The manifests in this binary.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The API server refused, or was not reached.
    #[error("cannot {what} {object}: {}", said(source))]
    Api {
        /// What was tried.
        what: &'static str,
        /// Of which object.
        object: String,
        /// What came back.
        source: Box<kube::Error>,
    },
    /// It did not become so in time.
    #[error("gave up after {seconds} s of waiting {waited_for}: {found}")]
    Timeout {
        /// Until what, or for whom.
        waited_for: String,
        /// For how long it was waited for.
        seconds: u64,
        /// How it stood at the end, and what to look at.
        found: String,
    },
}

impl InstallError {
    pub(super) fn api(what: &'static str, object: &Manifest) -> impl FnOnce(kube::Error) -> Self {
        Self::of(what, object.to_string())
    }

    pub(super) fn of(what: &'static str, object: String) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Api {
            what,
            object,
            source: Box::new(source),
        }
    }
}

/// The API server's own sentence, and a cure where it is known.
pub(crate) fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.is_forbidden() => format!(
            "{}; use a kubeconfig of a cluster administrator",
            status.message
        ),
        kube::Error::Api(status) if status.code == UNAUTHORIZED => format!(
            "{}: it does not know who asks; use a kubeconfig whose credentials are of this cluster \
             and have not expired",
            status.message
        ),
        kube::Error::Api(status) => status.message.clone(),
        other => format!(
            "{}; is the cluster of the kubeconfig up and reachable?",
            with_causes(other.to_string(), other.source())
        ),
    }
}

/// The status of a request without valid credentials (RFC 9110, section 15.5.2).
const UNAUTHORIZED: u16 = 401;

#[cfg(test)]
mod tests {
    use kube::{Api, Client, Config};

    use super::*;

    #[tokio::test]
    async fn a_server_that_is_not_reached_is_told_with_the_reason() {
        // A port that was free a moment ago: nobody listens there.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let config = Config::new(format!("http://{address}").parse().unwrap());
        let client = Client::try_from(config).unwrap();
        let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(client);
        let said = said(&nodes.get("n1").await.unwrap_err());
        assert!(said.contains("Connection refused"), "{said}");
        assert!(said.ends_with("up and reachable?"), "{said}");
        assert_eq!(said.matches("client error").count(), 1, "{said}");
    }
}
