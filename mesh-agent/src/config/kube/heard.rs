//! A client that notes when the server answers, and does not wait for ever for it to. A watch
//! that goes well and has nothing to tell would otherwise look like one that fails.

use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use tower_service::Service;

use super::health::KubeHealth;

/// Time for an answer to begin. An API server gives itself 60 s for a list (its option
/// `--request-timeout`) and begins with a watch at once: who is silent for longer has lost the
/// request, such as a load balancer whose server has gone.
const LIMIT: Duration = Duration::from_secs(65);

/// `client`, whose good answers count for `kind`.
pub(super) fn noting(client: Client, kind: &str, health: &KubeHealth) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = Noting {
        client,
        kind: kind.into(),
        health: health.clone(),
    };
    Client::new(service, namespace)
}

#[derive(Clone)]
struct Noting {
    client: Client,
    kind: String,
    health: KubeHealth,
}

impl Service<Request<Body>> for Noting {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), kube::Error>> {
        // The client waits for its own readiness.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let it = self.clone();
        Box::pin(async move {
            let answer = match tokio::time::timeout(LIMIT, it.client.send(request)).await {
                Ok(answer) => answer?,
                Err(_) => {
                    let error = format!("no answer within {} s", LIMIT.as_secs());
                    return Err(kube::Error::Service(error.into()));
                }
            };
            if answer.status().is_success() {
                it.health.heard(&it.kind);
            }
            Ok(answer)
        })
    }
}
