//! Why an installation, or taking one out, did not come to its end.

use super::kustomize::BuildError;
use super::manifest::Manifest;

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
        kube::Error::Api(status) => status.message.clone(),
        other => format!("{other}; is the cluster of the kubeconfig up and reachable?"),
    }
}
