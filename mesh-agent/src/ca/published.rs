//! The authority's roots in the Kubernetes API, as a ConfigMap that agents mount. Made and
//! kept true by `mesh-agent ca serve --kube`.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Client, Error};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Authority, CaError};

/// The ConfigMap's name.
pub const NAME: &str = "isthmus-ca-roots";

/// The key in it: the trusted roots in PEM.
pub const KEY: &str = "roots.pem";

const FIELD_MANAGER: &str = "isthmus-ca";

/// The least time between two writes, whoever else writes there, and the first wait after
/// an error.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest wait after an error.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// Publishes the roots of one authority.
pub struct Published {
    api: Api<ConfigMap>,
    authority: Arc<Authority>,
    done: watch::Sender<bool>,
}

impl Published {
    /// To publish in `namespace`.
    pub fn new(client: Client, namespace: &str, authority: Arc<Authority>) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            authority,
            done: watch::Sender::new(false),
        }
    }

    /// Tells whether the roots were published, now or earlier.
    pub fn done(&self) -> watch::Receiver<bool> {
        self.done.subscribe()
    }

    /// Publishes the roots, and does so again when they change and when somebody else
    /// changed or removed them.
    ///
    /// # Errors
    /// When the authority's directory cannot be watched. The API's errors are logged and
    /// tried again.
    pub async fn keep(self) -> Result<(), CaError> {
        let mut changes = self.authority.changes()?;
        let mut watched = pin!(watch_object(self.api.clone(), NAME).default_backoff());
        // What the API is known to hold; nothing is known before it was read.
        let mut there: Option<Option<String>> = None;
        let mut not_before = Instant::now();
        let mut due = false;
        let mut backoff = PAUSE;
        loop {
            tokio::select! {
                seen = watched.try_next() => match seen {
                    Ok(Some(seen)) => there = Some(seen.and_then(roots)),
                    Ok(None) => return Ok(()),
                    Err(error) => {
                        tracing::warn!(%error, config_map = NAME, "the published roots cannot be watched");
                        continue;
                    }
                },
                () = changes.changed() => {}
                () = tokio::time::sleep_until(not_before), if due => {}
            }
            let Some(known) = &there else { continue };
            let ours = match self.roots().await {
                Ok(ours) => ours,
                Err(error) => {
                    tracing::error!(%error, "the authority's roots cannot be read: what is published stays");
                    continue;
                }
            };
            if known.as_ref() == Some(&ours) {
                due = false;
                self.done.send_replace(true);
                continue;
            }
            due = true;
            if Instant::now() < not_before {
                continue;
            }
            match self.apply(&ours).await {
                Ok(()) => {
                    tracing::info!(
                        config_map = NAME,
                        replaced = known.is_some(),
                        "the roots are published"
                    );
                    there = Some(Some(ours));
                    self.done.send_replace(true);
                    (due, backoff) = (false, PAUSE);
                }
                Err(error) => {
                    tracing::warn!(%error, config_map = NAME, "the roots cannot be published");
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                }
            }
            not_before = Instant::now() + backoff;
        }
    }

    async fn roots(&self) -> Result<String, CaError> {
        let authority = Arc::clone(&self.authority);
        match tokio::task::spawn_blocking(move || authority.roots_pem()).await {
            Ok(roots) => roots,
            // The runtime is going away, and this task with it.
            Err(_) => std::future::pending().await,
        }
    }

    async fn apply(&self, roots: &str) -> Result<(), Error> {
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": NAME, "labels": {"app.kubernetes.io/part-of": "isthmus"}},
            "data": {KEY: roots},
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        self.api
            .patch(NAME, &params, &Patch::Apply(&object))
            .await?;
        Ok(())
    }
}

/// Whether roots are published in `namespace`, by this authority or another.
///
/// # Errors
/// When the API does not answer, or refuses.
pub async fn any(client: Client, namespace: &str) -> Result<bool, Error> {
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    let found = api.get_opt(NAME).await?.and_then(roots);
    Ok(found.is_some_and(|roots| roots.contains("BEGIN CERTIFICATE")))
}

fn roots(found: ConfigMap) -> Option<String> {
    found.data?.remove(KEY)
}

#[cfg(test)]
mod tests;
