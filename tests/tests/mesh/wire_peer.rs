//! The other end of a tunnel, played by the test: certificates, and clients that dial a pod's
//! port 15008 with TLS as they please. Used by the tests of the wire and of hostile peers.

use std::future::Future;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{Method, Request, StatusCode, Version};
use isthmus_tests::mesh::{Mesh, Pod};
use isthmus_tests::wait::patience;
use mesh_agent::ca::EmbeddedCa;
use mesh_agent::identity::{Credential, SpiffeId, SvidStore, TrustDomain, TrustStore};
use mesh_agent::tls::{self, ParametersStore, TlsSettings};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Certificates of the mesh, and a place for the test's own tasks.
pub(crate) struct Peer {
    runtime: Runtime,
    store: Arc<SvidStore>,
}

impl Peer {
    /// Call it when an agent has started, so that the authority is there.
    pub(crate) fn new(mesh: &Mesh) -> Result<Self> {
        Self::certified_in(&mesh.state())
    }

    /// By the authority in `STATE/ca`, under the roots that it has now.
    pub(crate) fn certified_in(state: &Path) -> Result<Self> {
        let authority = EmbeddedCa::open(state, &TrustDomain::new("cluster.local")?)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let store = {
            let _entered = runtime.enter();
            let trust = TrustStore::new(authority.authority().trust_domain().clone());
            trust.set_own(authority.authority().trust()?);
            let parameters = ParametersStore::new(TlsSettings::default());
            SvidStore::new(Arc::new(authority), trust, parameters)
        };
        Ok(Self { runtime, store })
    }

    /// Runs a test's asynchronous part, for two minutes at most.
    pub(crate) fn run<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(async {
            tokio::time::timeout(patience(120), work)
                .await
                .context("the peer's part did not end in two minutes")?
        })
    }

    /// Runs a task beside the test.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Task<T> {
        Task(self.runtime.spawn(work))
    }

    /// The certificate of any identity of the mesh.
    pub(crate) fn credential(&self, identity: &str) -> Result<Arc<Credential>> {
        let id: SpiffeId = identity.parse()?;
        self.run(async { Ok(self.store.acquire(&id).await?) })
    }

    /// A tunnel from `from`, as its identity, to `to`: HTTP/2 inside mutual TLS.
    pub(crate) fn tunnel(&self, from: &Pod, to: &Pod, at: SocketAddr) -> Result<Tunnel> {
        let tls = self.tls(from, to, at)?;
        self.run(Tunnel::start(tls))
    }

    /// Mutual TLS as an agent of the mesh does it.
    pub(crate) fn tls(&self, from: &Pod, to: &Pod, at: SocketAddr) -> Result<TlsStream<TcpStream>> {
        let credential = self.credential(&from.identity())?;
        let expected: SpiffeId = to.identity().parse()?;
        let tcp = dial(from, at)?;
        self.run(async {
            let tcp = TcpStream::from_std(tcp)?;
            Ok(tls::connect(&credential, &expected, tcp).await?.stream)
        })
    }

    /// Dials with a TLS configuration of the test's own; says what the peer's refusal was,
    /// during the handshake or at the first read after it, or `None` when it took us.
    pub(crate) fn refusal(
        &self,
        from: &Pod,
        at: SocketAddr,
        config: ClientConfig,
    ) -> Result<Option<std::io::Error>> {
        let tcp = dial(from, at)?;
        self.run(async {
            let connector = TlsConnector::from(Arc::new(config));
            let nobody = ServerName::try_from("nobody.invalid")?;
            let stream = match connector.connect(nobody, TcpStream::from_std(tcp)?).await {
                Ok(stream) => stream,
                Err(error) => return Ok(Some(error)),
            };
            first_read(stream).await
        })
    }

    /// A tunnel with a TLS configuration of the test's own.
    pub(crate) fn tunnel_with(
        &self,
        from: &Pod,
        at: SocketAddr,
        config: ClientConfig,
    ) -> Result<Tunnel> {
        let tcp = dial(from, at)?;
        self.run(async {
            let connector = TlsConnector::from(Arc::new(config));
            let name = ServerName::try_from("nobody.invalid")?;
            let tls = connector.connect(name, TcpStream::from_std(tcp)?).await?;
            Tunnel::start(tls).await
        })
    }

    /// A client configuration of the mesh, for the test to change.
    pub(crate) fn config(&self, from: &Pod, to: &Pod) -> Result<ClientConfig> {
        let expected: SpiffeId = to.identity().parse()?;
        let config = self
            .credential(&from.identity())?
            .client_config(&expected)?;
        Ok(ClientConfig::clone(&config))
    }
}

/// A server that takes the connection speaks first: its HTTP/2 SETTINGS.
async fn first_read(mut stream: TlsStream<TcpStream>) -> Result<Option<std::io::Error>> {
    use tokio::io::AsyncReadExt as _;
    let mut byte = [0];
    Ok(match stream.read(&mut byte).await {
        Ok(1..) => None,
        Ok(0) => Some(std::io::ErrorKind::UnexpectedEof.into()),
        Err(error) => Some(error),
    })
}

/// A task of the test's own, ended with it.
pub(crate) struct Task<T>(tokio::task::JoinHandle<Result<T>>);

impl<T> Task<T> {
    /// What it came to.
    pub(crate) fn join(mut self, peer: &Peer) -> Result<T> {
        peer.run(async { (&mut self.0).await? })
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An HTTP/2 client inside a tunnel. Its connection runs beside it until both are gone.
#[derive(Clone)]
pub(crate) struct Tunnel(SendRequest<Bytes>);

impl Tunnel {
    pub(crate) async fn start(tls: TlsStream<TcpStream>) -> Result<Self> {
        let (sender, connection) = h2::client::handshake(tls).await?;
        tokio::spawn(async move {
            // Requests report what breaks the connection.
            let _ = connection.await;
        });
        Ok(Self(sender))
    }

    /// Sends one request; gives the status and both directions of the stream.
    pub(crate) async fn ask(&self, request: Request<()>) -> Result<Answer> {
        let mut sender = self.0.clone().ready().await?;
        let (answer, send) = sender.send_request(request, false)?;
        let answer = answer.await?;
        Ok(Answer {
            status: answer.status(),
            receive: answer.into_body(),
            send,
        })
    }

    /// The status that one CONNECT is answered with.
    pub(crate) async fn status(&self, authority: &str) -> Result<StatusCode> {
        Ok(self.ask(connect(authority)).await?.status)
    }
}

/// What a request was answered with.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) receive: RecvStream,
    pub(crate) send: SendStream<Bytes>,
}

impl Answer {
    /// Sends `text` and reads as many bytes back.
    pub(crate) async fn echo(&mut self, text: &'static str) -> Result<()> {
        self.send
            .send_data(Bytes::from_static(text.as_bytes()), false)?;
        let mut came = Vec::new();
        while came.len() < text.len() {
            let data = self.receive.data().await.context("the stream ended")??;
            self.receive.flow_control().release_capacity(data.len())?;
            came.extend_from_slice(&data);
        }
        anyhow::ensure!(came == text.as_bytes(), "{text} came back as {came:?}");
        Ok(())
    }
}

/// A CONNECT with nothing but what HTTP/2 demands.
pub(crate) fn connect(authority: &str) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = authority.parse().unwrap_or_default();
    request
}

/// A TCP connection from inside `from`, of a process that is in no pod.
pub(crate) fn dial(from: &Pod, to: SocketAddr) -> Result<StdStream> {
    let stream = from.netns().run(|| {
        StdStream::connect_timeout(&to, patience(10)).with_context(|| format!("dialling {to}"))
    })?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}
