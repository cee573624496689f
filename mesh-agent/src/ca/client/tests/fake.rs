//! An authority that does as a test says: TLS and gRPC are real, the rest is scripted.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::SanType;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tonic::Status;
use tonic::body::Body;
use tonic::server::{Grpc, ServerStreamingService, UnaryService};
use tonic_prost::ProstCodec;

use crate::ca::api::*;
use crate::ca::client::{RemoteCa, RemoteSettings};
use crate::identity::BoxFuture;
use crate::identity::fixtures::{ManualClock, TestCa, epoch, leaf_params};
use crate::tls::{ALPN, provider};

type Answer = Result<CertificateResponse, Status>;
/// Answers a request for a certificate.
pub(super) type Script =
    Arc<dyn Fn(CertificateRequest) -> BoxFuture<'static, Answer> + Send + Sync>;

/// What it answers to whom.
#[derive(Clone)]
pub(super) struct Behaviour {
    pub(super) certify: Script,
    /// `None`: an authority with Istio's API alone.
    pub(super) trust: Option<watch::Receiver<TrustMessage>>,
    /// Speaks HTTP, and not gRPC.
    pub(super) web: bool,
}

/// A running authority. Ends, with its connections, when dropped.
pub(super) struct FakeCa {
    pub(super) address: SocketAddr,
    /// Path and bearer token of each call.
    pub(super) calls: mpsc::UnboundedReceiver<(String, String)>,
    task: JoinHandle<()>,
}

impl FakeCa {
    /// Goes, and leaves its address to the next.
    pub(super) async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    /// Listens with a certificate for 127.0.0.1 of `vouching`.
    pub(super) async fn start(vouching: &TestCa, behaviour: Behaviour) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), vouching, behaviour).await
    }

    pub(super) async fn start_at(at: SocketAddr, vouching: &TestCa, behaviour: Behaviour) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(at).unwrap();
        let listener = socket.listen(16).unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, calls) = mpsc::unbounded_channel();
        let task = tokio::spawn(serve(listener, acceptor(vouching), behaviour, tell));
        Self {
            address,
            calls,
            task,
        }
    }
}

impl Drop for FakeCa {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn acceptor(vouching: &TestCa) -> TlsAcceptor {
    let mut params = leaf_params(&[]);
    params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    let own = vouching.sign(params);
    let mut config = ServerConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(own.chain, own.key)
        .unwrap();
    config.alpn_protocols = vec![ALPN.to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

type Calls = mpsc::UnboundedSender<(String, String)>;

async fn serve(listener: TcpListener, tls: TlsAcceptor, behaviour: Behaviour, calls: Calls) {
    let mut open = JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            return;
        };
        let (tls, behaviour, calls) = (tls.clone(), behaviour.clone(), calls.clone());
        open.spawn(async move {
            let Ok(stream) = tls.accept(socket).await else {
                return;
            };
            let service = service_fn(move |request: Request<Incoming>| {
                let (behaviour, calls) = (behaviour.clone(), calls.clone());
                async move { Ok::<_, Infallible>(answer(request, behaviour, &calls).await) }
            });
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(request: Request<Incoming>, behaviour: Behaviour, calls: &Calls) -> Response<Body> {
    let header = request.headers().get("authorization");
    let token = header.map_or("", |value| value.to_str().unwrap());
    let _ = calls.send((request.uri().path().to_owned(), token.to_owned()));
    if behaviour.web {
        return Response::new(Body::new("<html>It works!</html>".to_owned()));
    }
    match (request.uri().path(), behaviour.trust) {
        (CREATE_CERTIFICATE, _) => {
            let codec = ProstCodec::<CertificateResponse, CertificateRequest>::new();
            Grpc::new(codec)
                .unary(Certify(behaviour.certify), request)
                .await
        }
        (WATCH_TRUST, Some(trust)) => {
            let codec = ProstCodec::<TrustMessage, WatchRequest>::new();
            Grpc::new(codec)
                .server_streaming(Tell(trust), request)
                .await
        }
        _ => Status::unimplemented("unknown service").into_http(),
    }
}

struct Certify(Script);

impl UnaryService<CertificateRequest> for Certify {
    type Response = CertificateResponse;
    type Future = BoxFuture<'static, Result<tonic::Response<CertificateResponse>, Status>>;

    fn call(&mut self, request: tonic::Request<CertificateRequest>) -> Self::Future {
        let answer = (self.0)(request.into_inner());
        Box::pin(async move { answer.await.map(tonic::Response::new) })
    }
}

struct Tell(watch::Receiver<TrustMessage>);

impl ServerStreamingService<WatchRequest> for Tell {
    type Response = TrustMessage;
    type ResponseStream = tokio_stream::wrappers::ReceiverStream<Result<TrustMessage, Status>>;
    type Future = std::future::Ready<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _: tonic::Request<WatchRequest>) -> Self::Future {
        let (tell, told) = mpsc::channel(1);
        let mut trust = self.0.clone();
        trust.mark_changed();
        tokio::spawn(async move {
            while trust.changed().await.is_ok() {
                let message = trust.borrow_and_update().clone();
                if tell.send(Ok(message)).await.is_err() {
                    return;
                }
            }
        });
        let stream = tokio_stream::wrappers::ReceiverStream::new(told);
        std::future::ready(Ok(tonic::Response::new(stream)))
    }
}

/// Certifies, as `ca`, whoever asks with the only URI that the metadata names.
pub(super) fn honest(ca: Arc<TestCa>) -> Script {
    Arc::new(move |request| {
        let uri = request.impersonated().unwrap().unwrap().to_owned();
        let mut chain: Vec<_> = ca
            .certify(&request.csr, leaf_params(&[&uri]))
            .iter()
            .map(|der| certificate(der))
            .collect();
        chain.extend(ca.bundle().roots().iter().map(|der| certificate(der)));
        Box::pin(async { Ok(CertificateResponse { cert_chain: chain }) })
    })
}

/// The files of a client, and how it is made.
pub(super) struct Node {
    pub(super) dir: tempfile::TempDir,
    endpoint: String,
}

impl Node {
    /// A node that has the token `first` and the roots of `ca`.
    pub(super) fn new(address: SocketAddr, ca: &TestCa) -> Self {
        let node = Self {
            dir: tempfile::tempdir().unwrap(),
            endpoint: format!("https://{address}"),
        };
        node.write("token", "first\n");
        node.write("roots.pem", &certificate(&ca.bundle().roots()[0]));
        node
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path("new"), text).unwrap();
        std::fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    pub(super) fn settings(&self) -> RemoteSettings {
        RemoteSettings {
            endpoint: self.endpoint.clone(),
            roots_file: self.path("roots.pem"),
            token_file: self.path("token"),
            crl_file: None,
            lifetime: None,
            state_dir: self.path("state"),
        }
    }

    pub(super) fn client(&self) -> Arc<RemoteCa> {
        RemoteCa::new(self.settings(), ManualClock::at(epoch())).unwrap()
    }
}

/// For what must happen, so that a test that hangs says where.
pub(super) async fn soon<T>(event: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(Duration::from_secs(30), event).await;
    waited.expect("it did not happen")
}
