//! The serving end of a tunnel, played by the test in a pod without an agent.

use std::net::TcpListener as StdListener;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use h2::server::Connection;
use http::{Response, StatusCode, request};
use isthmus_tests::mesh::Pod;
use mesh_agent::identity::{Credential, peer_identity};
use rustls::ProtocolVersion;
use rustls::server::Acceptor;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

/// A tunnel that a client has opened, and what its handshake said.
pub(crate) struct Accepted {
    pub(crate) connection: Connection<TlsStream<TcpStream>, Bytes>,
    server_name: Option<String>,
    offered: Vec<Vec<u8>>,
    version: Option<ProtocolVersion>,
    client: String,
}

/// All that the client of one tunnel said.
pub(crate) struct Asked {
    /// The name in its SNI.
    pub(crate) server_name: Option<String>,
    /// The protocols in its ALPN.
    pub(crate) offered: Vec<Vec<u8>>,
    /// What was agreed on.
    pub(crate) version: Option<ProtocolVersion>,
    /// The identity in its certificate.
    pub(crate) client: String,
    /// Its first request.
    pub(crate) head: request::Parts,
    /// The bytes that it sent, to its END_STREAM.
    pub(crate) came: Vec<u8>,
}

/// Listens where the pod's tunnels end.
pub(crate) fn listen(pod: &Pod) -> Result<StdListener> {
    let listener = pod
        .netns()
        .run(|| StdListener::bind("[::]:15008").context("listening on 15008"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Accepts one tunnel as the holder of `credential`.
pub(crate) async fn accept(
    listener: &StdListener,
    credential: &Arc<Credential>,
) -> Result<Accepted> {
    let listener = TcpListener::from_std(listener.try_clone()?)?;
    let (tcp, _) = listener.accept().await?;
    let hello = LazyConfigAcceptor::new(Acceptor::default(), tcp).await?;
    let said = hello.client_hello();
    let server_name = said.server_name().map(str::to_owned);
    let offered = said
        .alpn()
        .map(|names| names.map(<[u8]>::to_vec).collect())
        .unwrap_or_default();
    let tls = hello.into_stream(credential.server_config()?).await?;
    let session = tls.get_ref().1;
    let (version, client) = (
        session.protocol_version(),
        peer_identity(session)?.to_string(),
    );
    Ok(Accepted {
        connection: h2::server::handshake(tls).await?,
        server_name,
        offered,
        version,
        client,
    })
}

/// Serves one tunnel with one request, and sends back what comes when `status` is 200.
pub(crate) async fn serve_one(
    listener: Arc<StdListener>,
    credential: Arc<Credential>,
    status: StatusCode,
) -> Result<Asked> {
    let mut tunnel = accept(&listener, &credential).await?;
    let (request, mut respond) = tunnel
        .connection
        .accept()
        .await
        .context("the client opened a tunnel and asked for nothing")??;
    let (head, mut body) = request.into_parts();
    let mut answer = Response::new(());
    *answer.status_mut() = status;
    let refused = status != StatusCode::OK;
    let mut send = respond.send_response(answer, refused)?;
    let mut came = Vec::new();
    if !refused {
        let echo = async {
            while let Some(data) = body.data().await {
                let data = data?;
                body.flow_control().release_capacity(data.len())?;
                came.extend_from_slice(&data);
                send.send_data(data, false)?;
            }
            send.send_data(Bytes::new(), true)
        };
        tokio::select! {
            echoed = echo => echoed?,
            more = tunnel.connection.accept() => anyhow::bail!("then came {more:?}"),
        }
    }
    // What was sent has to go out: GOAWAY and the end of the connection follow it.
    tunnel.connection.graceful_shutdown();
    // An error is an end too: the client may be the first to leave.
    while let Some(Ok(_)) = tunnel.connection.accept().await {}
    Ok(Asked {
        server_name: tunnel.server_name,
        offered: tunnel.offered,
        version: tunnel.version,
        client: tunnel.client,
        head,
        came,
    })
}
