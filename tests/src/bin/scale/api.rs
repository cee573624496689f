//! The API server as its administrator sees it: raw requests, many at a time, whose answers
//! nobody needs to take apart.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

/// Requests under way at once.
const AT_ONCE: usize = 48;

/// One request.
pub(crate) struct Call {
    method: Method,
    path: String,
    body: Value,
}

impl Call {
    pub(crate) fn post(path: impl Into<String>, body: Value) -> Self {
        let (method, path) = (Method::POST, path.into());
        Self { method, path, body }
    }

    /// A merge patch.
    pub(crate) fn patch(path: impl Into<String>, body: Value) -> Self {
        let (method, path) = (Method::PATCH, path.into());
        Self { method, path, body }
    }

    pub(crate) fn delete(path: impl Into<String>) -> Self {
        let (method, path) = (Method::DELETE, path.into());
        let body = json!({});
        Self { method, path, body }
    }
}

#[derive(Clone)]
pub(crate) struct Api {
    client: Client,
    folder: PathBuf,
    authority: String,
}

impl Api {
    pub(crate) async fn open(folder: &Path) -> Result<Self> {
        let file = folder.join("admin.kubeconfig");
        let kubeconfig =
            Kubeconfig::read_from(&file).with_context(|| format!("reading {}", file.display()))?;
        let cluster = kubeconfig
            .clusters
            .first()
            .and_then(|it| it.cluster.clone());
        let authority = cluster
            .and_then(|cluster| cluster.certificate_authority_data)
            .with_context(|| format!("{} names no authority", file.display()))?;
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        Ok(Self {
            client: Client::try_from(config)?,
            folder: folder.to_owned(),
            authority,
        })
    }

    /// Makes one request; an object that is there already, or gone, is fine.
    pub(crate) async fn call(&self, call: Call) -> Result<String> {
        let Call { method, path, body } = call;
        let kind = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let body = serde_json::to_vec(&body)?;
        let mut refusals = 0;
        loop {
            let request = Request::builder()
                .method(&method)
                .uri(&path)
                .header(http::header::CONTENT_TYPE, kind)
                .body(body.clone())?;
            match self.client.request_text(request).await {
                Ok(text) => return Ok(text),
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                    return Ok(String::new());
                }
                // Admission learns of accounts and kinds a moment after they are there.
                Err(kube::Error::Api(status)) if refusals < 50 && status.code != 422 => {
                    refusals += 1;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    drop(status);
                }
                Err(error) => bail!("{method} {path}: {error}"),
            }
        }
    }

    /// Makes all of them, in no order.
    pub(crate) async fn all(&self, calls: impl Iterator<Item = Call>) -> Result<()> {
        stream::iter(calls)
            .map(|call| self.call(call))
            .buffer_unordered(AT_ONCE)
            .try_for_each(async |_| Ok(()))
            .await
    }

    /// A kubeconfig of an account of ours, by which the API server is at `server`.
    pub(crate) async fn kubeconfig_of(&self, account: &str, server: &str) -> Result<String> {
        let path = format!("/api/v1/namespaces/isthmus-system/serviceaccounts/{account}/token");
        let asked = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": 86400},
        });
        let answer: Value = serde_json::from_str(&self.call(Call::post(path, asked)).await?)?;
        let token = answer["status"]["token"].as_str().context("no token")?;
        Ok(json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "scale",
            "contexts": [{"name": "scale", "context": {"cluster": "scale", "user": "scale"}}],
            "clusters": [{"name": "scale", "cluster": {
                "server": server, "tls-server-name": "kubernetes",
                "certificate-authority-data": self.authority,
            }}],
            "users": [{"name": "scale", "user": {"token": token}}],
        })
        .to_string())
    }

    /// The agent's requests so far, as the API server wrote them down.
    pub(crate) fn requests_of_agent(&self) -> Result<Vec<String>> {
        let file = self.folder.join("audit.log");
        let text =
            fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let mut requests = Vec::new();
        for line in text.lines() {
            let entry: Value = serde_json::from_str(line).context("a line of the audit")?;
            let verb = entry["verb"].as_str().unwrap_or_default();
            let path = entry["requestURI"].as_str().unwrap_or_default();
            requests.push(format!("{verb} {path}"));
        }
        Ok(requests)
    }
}
