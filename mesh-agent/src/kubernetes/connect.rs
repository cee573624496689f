//! How the API server is connected to: what `kube` does, and a connection that notices when
//! its other end is gone. Used by the parent module.
//!
//! A watch is silent for minutes when there is nothing to tell. When the server's machine or the
//! way there is lost, no FIN and no RST comes, and what waits for news waits on: `kube` ends a
//! watch after 295 s. Until then the agent would hold that it is heard.

use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ConfigExt};
use kube::{Client, Config};
use tower::retry::RetryLayer;
use tower::{BoxError, ServiceBuilder};

use super::{KubernetesError, Retries};

/// When a silent connection counts as dead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Liveness {
    /// Time to connect, TLS included.
    pub(crate) connect: Duration,
    /// A connection is asked for a sign of life after so much silence (`TCP_KEEPIDLE`)...
    pub(crate) idle: Duration,
    /// ...and so often (`TCP_KEEPINTVL`). Whole seconds, as the kernel counts them.
    pub(crate) interval: Duration,
    /// It is dead when nothing came for so long, or what was sent is not acknowledged
    /// (`TCP_USER_TIMEOUT`, which overrules the number of probes: tcp(7)).
    pub(crate) limit: Duration,
}

/// Half a minute: longer than a server that fails over takes to answer to its address again,
/// and a tenth of what it would be. The probes of a thousand nodes with ten watches each are a
/// thousand small packets a second. Connecting is shorter, so that a way that opens meanwhile is
/// tried soon: the kernel's own SYNs come at ever longer intervals.
pub(super) const LIVENESS: Liveness = Liveness {
    connect: Duration::from_secs(10),
    idle: Duration::from_secs(10),
    interval: Duration::from_secs(5),
    limit: Duration::from_secs(30),
};

/// A client of the server that `config` names.
pub(crate) fn client_with(
    config: Config,
    liveness: Liveness,
    retries: Retries,
) -> Result<Client, KubernetesError> {
    if let Some(proxy) = config.proxy_url {
        return Err(KubernetesError::Proxy(proxy));
    }
    // What `kube` would do. An error means that there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let https = config
        .rustls_https_connector_with_connector(connector(liveness))
        .map_err(KubernetesError::Client)?;
    let mut connector = TimeoutConnector::new(https);
    connector.set_connect_timeout(Some(liveness.connect));
    let http = HttpClient::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let retry = (retries == Retries::Client).then(|| RetryLayer::new(RetryPolicy::server_retry()));
    let auth = config.auth_layer().map_err(KubernetesError::Client)?;
    let headers = config
        .extra_headers_layer()
        .map_err(KubernetesError::Client)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(retry)
        .option_layer(auth)
        .layer(headers)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}

fn connector(liveness: Liveness) -> HttpConnector {
    let mut http = HttpConnector::new();
    // TLS goes on top of it.
    http.enforce_http(false);
    // The addresses of a name share it, so that the second is tried too.
    http.set_connect_timeout(Some(liveness.connect));
    http.set_keepalive(Some(liveness.idle));
    http.set_keepalive_interval(Some(liveness.interval));
    http.set_tcp_user_timeout(Some(liveness.limit));
    http
}
