//! One connection to an authority: TCP, TLS against the roots that count, HTTP/2, and
//! the form in which gRPC uses it. Made by [`super::link`].

use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, UNIX_EPOCH};

use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, ClientConfig, RootCertStore, version};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::body::Body;

use super::RemoteError;
use crate::identity::{BoxFuture, Clock};
use crate::tls::{ALPN, HandshakeFailure, handshake_failure, provider};

/// How often a connection on which an answer is awaited is asked for a sign of life,
/// and how long it has for it. Only while something is awaited: istiod counts idle
/// pings as abuse (its enforcement policy wants 15 s between them), and `Watch` awaits
/// all the time.
const KEEPALIVE: Duration = Duration::from_secs(4);

/// Where an authority is.
#[derive(Clone, Debug)]
pub(in crate::ca) struct Endpoint {
    /// As it was configured.
    pub(in crate::ca) text: Arc<str>,
    pub(in crate::ca) uri: http::Uri,
    host: String,
    port: u16,
    name: ServerName<'static>,
}

/// What the authority's own certificate is checked against.
pub(in crate::ca) struct Anchors {
    pub(in crate::ca) roots: Vec<CertificateDer<'static>>,
    pub(in crate::ca) lists: Vec<CertificateRevocationListDer<'static>>,
}

/// An open connection. Clones share it; it ends when the last is gone.
#[derive(Clone)]
pub(in crate::ca) struct Channel(SendRequest<Body>);

impl Channel {
    /// Connects; without deadlines, which are the caller's.
    pub(in crate::ca) async fn open(
        endpoint: &Endpoint,
        anchors: Anchors,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, DialError> {
        let tls = tls_config(anchors, clock).map_err(DialError::Handshake)?;
        let socket = TcpStream::connect((endpoint.host.as_str(), endpoint.port))
            .await
            .map_err(DialError::Connect)?;
        // Requests are small, and somebody waits for each.
        let _ = socket.set_nodelay(true);
        let stream = TlsConnector::from(Arc::new(tls))
            .connect(endpoint.name.clone(), socket)
            .await
            .map_err(|error| DialError::Handshake(named(handshake_failure(&error))))?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(DialError::Handshake(HandshakeFailure::NoAlpn));
        }
        let (send, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(false)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(DialError::Http)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the authority ended");
            }
        });
        Ok(Self(send))
    }

    pub(in crate::ca) fn is_open(&self) -> bool {
        !self.0.is_closed()
    }
}

impl tower_service::Service<http::Request<Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(in crate::ca) enum DialError {
    Connect(std::io::Error),
    Handshake(HandshakeFailure),
    Http(hyper::Error),
}

impl FromStr for Endpoint {
    type Err = RemoteError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || RemoteError::Endpoint(text.to_owned());
        let uri: http::Uri = text.parse().map_err(|_| refused())?;
        let (Some("https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(refused());
        };
        let bare = authority.as_str().find('@').is_none();
        let (Some(port), true, "/", None) = (uri.port_u16(), bare, uri.path(), uri.query()) else {
            return Err(refused());
        };
        // An IPv6 address stands in brackets, which are the URL's.
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|_| refused())?;
        Ok(Self {
            text: text.into(),
            host: host.to_owned(),
            port,
            name,
            uri,
        })
    }
}

fn tls_config(anchors: Anchors, clock: Arc<dyn Clock>) -> Result<ClientConfig, HandshakeFailure> {
    let mut roots = RootCertStore::empty();
    let (usable, unusable) = roots.add_parsable_certificates(anchors.roots);
    if unusable > 0 {
        tracing::warn!(
            usable,
            unusable,
            "some roots for the authority's server cannot be used"
        );
    }
    // Its certificate may be revoked: who has its key could collect node tokens. Its
    // issuer may have no list, as with other authorities; that is no reason to refuse.
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider().clone())
        .with_crls(anchors.lists)
        .only_check_end_entity_revocation()
        .allow_unknown_revocation_status()
        .build()
        .map_err(|error| protocol(rustls::Error::General(error.to_string())))?;
    let time = Arc::new(ClockTime(clock));
    let mut config = ClientConfig::builder_with_details(provider().clone(), time)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(protocol)?
        .with_webpki_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// A chain whose signature does not fit a root of the same name is of another root: an
/// authority that was made anew has the name of the old one.
fn named(failure: HandshakeFailure) -> HandshakeFailure {
    match failure {
        HandshakeFailure::Certificate(CertificateError::BadSignature) => {
            HandshakeFailure::UntrustedRoot
        }
        other => other,
    }
}

fn protocol(error: rustls::Error) -> HandshakeFailure {
    HandshakeFailure::Protocol(error)
}

/// The agent's clock in the form in which TLS reads it.
#[derive(Debug)]
struct ClockTime(Arc<dyn Clock>);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let since = self.0.now().duration_since(UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_urls_with_a_port_and_nothing_else() {
        for (text, host, port) in [
            ("https://ca.isthmus.svc:15012", "ca.isthmus.svc", 15012),
            ("https://ca.isthmus.svc:15012/", "ca.isthmus.svc", 15012),
            ("https://10.0.0.7:443", "10.0.0.7", 443),
            ("https://[fd00::7]:15012", "fd00::7", 15012),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.host.as_str(), endpoint.port), (host, port));
        }
        for text in [
            "",
            "ca.isthmus.svc:15012",
            "http://ca.isthmus.svc:15012",
            "https://ca.isthmus.svc",
            "https://ca.isthmus.svc:15012/path",
            "https://ca.isthmus.svc:15012/?query",
            "https://user:secret@ca.isthmus.svc:15012",
            "https://:15012",
            "https://a b:15012",
        ] {
            let refused = text.parse::<Endpoint>();
            assert!(matches!(refused, Err(RemoteError::Endpoint(_))), "{text}");
        }
    }
}
