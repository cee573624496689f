//! What the tests of the tunnel, the pool and the relay share: a runtime as the
//! workers have it, and tunnels with both ends in this process.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use super::{
    ConnectRequest, Incoming, TunnelClient, TunnelError, TunnelRead, TunnelSettings, TunnelStream,
    server,
};

/// Runs a test as a worker would, with a limit for one that hangs.
pub(crate) fn local<T>(test: impl Future<Output = T>) -> T {
    run(test, false)
}

/// [`local`] with a clock that jumps to the next timer when nothing else is
/// left to do: what waits then waits for time alone.
pub(crate) fn paused<T>(test: impl Future<Output = T>) -> T {
    run(test, true)
}

fn run<T>(test: impl Future<Output = T>, paused: bool) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(paused)
        .build()
        .unwrap();
    let limit = Duration::from_secs(if paused { 1 << 20 } else { 120 });
    let set = LocalSet::new();
    runtime
        .block_on(set.run_until(async { tokio::time::timeout(limit, test).await }))
        .expect("the test hangs")
}

/// Two ends of a loopback TCP connection.
pub(crate) async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (connected, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let pair = (connected.unwrap(), accepted.unwrap().0);
    pair.0.set_nodelay(true).unwrap();
    pair.1.set_nodelay(true).unwrap();
    pair
}

pub(crate) fn pipe() -> (DuplexStream, DuplexStream) {
    duplex(256 << 10)
}

/// The serving end of a tunnel, carried by a task.
pub(crate) struct Served {
    pub(crate) incoming: mpsc::UnboundedReceiver<Incoming>,
    pub(crate) drain: mpsc::UnboundedSender<()>,
    /// How the tunnel ended; aborting it cuts the tunnel.
    pub(crate) end: JoinHandle<Result<(), TunnelError>>,
}

pub(crate) fn serve<IO>(io: IO, settings: &TunnelSettings) -> Served
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (found, incoming) = mpsc::unbounded_channel();
    let (drain, mut drains) = mpsc::unbounded_channel();
    let settings = settings.clone();
    let end = spawn_local(async move {
        let mut server = server::serve(io, &settings).await?;
        loop {
            tokio::select! {
                next = server.accept() => match next {
                    // A test that has seen enough drops the receiver.
                    Some(Ok(one)) => drop(found.send(one)),
                    Some(Err(error)) => return Err(error),
                    None => return Ok(()),
                },
                Some(()) = drains.recv() => server.drain(),
            }
        }
    });
    Served {
        incoming,
        drain,
        end,
    }
}

pub(crate) async fn client<IO>(io: IO, settings: &TunnelSettings) -> TunnelClient
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (client, driver) = TunnelClient::handshake(io, settings).await.unwrap();
    spawn_local(driver);
    client
}

/// A tunnel between two ends in this process.
pub(crate) async fn tunnel(settings: &TunnelSettings) -> (TunnelClient, Served) {
    let (near, far) = pipe();
    let served = serve(far, settings);
    (client(near, settings).await, served)
}

pub(crate) fn request() -> ConnectRequest {
    ConnectRequest::new("10.0.0.2:8080".parse().unwrap())
}

/// Both ends of one stream: the client's and the server's.
pub(crate) async fn stream(
    client: &TunnelClient,
    served: &mut Served,
) -> (TunnelStream, TunnelStream) {
    let asked = request();
    let (near, far) = tokio::join!(client.open(&asked), async {
        served.incoming.recv().await.unwrap().accept().unwrap()
    });
    (near.unwrap(), far)
}

/// Reads to the end.
pub(crate) async fn read_all(read: &mut TunnelRead) -> Bytes {
    let mut all = Vec::new();
    while let Some(data) = read.read().await {
        let data = data.unwrap();
        read.release(data.len());
        all.extend_from_slice(&data);
    }
    all.into()
}
