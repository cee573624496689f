//! Tunnels that a ztunnel, played by the test, keeps for as long as they are used, and the
//! windows that it gives us.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::{Response, StatusCode};
use isthmus_tests::mesh::{Mesh, Mtls};
use isthmus_tests::process::Process;
use isthmus_tests::traffic::Talk;
use isthmus_tests::wait::wait_until;
use mesh_agent::identity::Credential;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::floods::carried;
use crate::foreign::Authority;
use crate::wire::Fixed;
use crate::wire_peer::{Peer, connect};
use crate::wire_server;
use crate::wire_target::Target;

/// A client that keeps its tunnel while its certificate runs out: it gets a GOAWAY before, and
/// no stream that it opens until then is refused. What is open goes on after the end.
#[test]
fn tunnel_is_drained_before_its_clients_certificate_expires() -> Result<()> {
    let target = Target::start()?;
    let peer = Peer::new(&target.mesh)?;
    let end = SystemTime::now() + Duration::from_secs(12);
    let leaf = Authority::of_the_mesh(&target.mesh)?.leaf_until(&target.client.identity(), end)?;
    let mut config = peer.config(&target.client, &target.server)?;
    config.client_auth_cert_resolver = Arc::new(Fixed(Some(Arc::new(leaf))));
    let tunnel = peer.tunnel_with(&target.client, target.tunnel_port(), config)?;
    let to = target.server.v4(8080).to_string();
    peer.run(async {
        let mut open = tunnel.ask(connect(&to)).await?;
        ensure!(open.status == StatusCode::OK, "{}", open.status);
        let refused = loop {
            match tunnel.status(&to).await {
                Ok(status) => ensure!(status == StatusCode::OK, "{status} before a GOAWAY"),
                Err(error) => break error,
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        let refused: h2::Error = refused.downcast()?;
        ensure!(refused.is_go_away(), "{refused}");
        ensure!(refused.reason() == Some(h2::Reason::NO_ERROR), "{refused}");
        while SystemTime::now() <= end {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        open.echo("goes on").await
    })?;
    // With a certificate that was renewed.
    target.ensure_serving(&peer)
}

/// A port whose streams are not read, and one whose streams are sent back.
const STALLS: u16 = 8080;
const ECHOES: u16 = 9090;

/// Serves tunnels with the windows of ztunnel.
async fn serve(listener: Arc<StdListener>, credential: Arc<Credential>) -> Result<()> {
    let listener = TcpListener::from_std(listener.try_clone()?)?;
    loop {
        let (tcp, _) = listener.accept().await?;
        let acceptor = TlsAcceptor::from(credential.server_config()?);
        tokio::spawn(async move {
            let ended = serve_tunnel(tcp, acceptor).await;
            ended.inspect_err(|error| eprintln!("a tunnel ended: {error:#}"))
        });
    }
}

async fn serve_tunnel(tcp: TcpStream, acceptor: TlsAcceptor) -> Result<()> {
    let tls = acceptor.accept(tcp).await?;
    let mut tunnel = h2::server::Builder::new()
        .initial_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .max_frame_size(1 << 20)
        .handshake::<_, Bytes>(tls)
        .await?;
    let mut stalled = Vec::new();
    while let Some(request) = tunnel.accept().await {
        let (request, mut respond) = request?;
        let to: SocketAddr = request.uri().to_string().parse()?;
        let mut send = respond.send_response(Response::new(()), false)?;
        let mut body = request.into_body();
        if to.port() == STALLS {
            stalled.push((send, body));
            continue;
        }
        tokio::spawn(async move {
            while let Some(data) = body.data().await {
                let data = data?;
                body.flow_control().release_capacity(data.len())?;
                send.send_data(data, false)?;
            }
            send.send_data(Bytes::new(), true)?;
            anyhow::Ok(())
        });
    }
    Ok(())
}

/// Eight connections whose readers stall fill every window that they may; another connection
/// of the same pods goes through, whether it was there before or comes after.
#[test]
fn stalled_readers_behind_ztunnel_stop_no_other_connection() -> Result<()> {
    let mesh = Mesh::new()?;
    mesh.mtls(Mtls::Strict)?;
    let (one, two) = (mesh.node("one")?, mesh.node("two")?);
    let (client, workload) = (one.pod("client")?, two.pod("workload")?);
    one.start()?;
    one.wait_state(&client.uid(), "enrolled")?;
    let peer = Peer::new(&mesh)?;
    let listener = Arc::new(wire_server::listen(&workload)?);
    let credential = peer.credential(&workload.identity())?;
    let _server = peer.spawn(serve(listener, credential));

    // On the tunnel of each worker.
    let before: Vec<Talk> = (0..4)
        .map(|_| Talk::open(&client, workload.v4(ECHOES)))
        .collect::<Result<_>>()?;
    let upload = format!("upload {} --bytes 100000000", workload.v4(STALLS));
    let _stalled: Vec<Process> = (0..8)
        .map(|_| client.start(&upload))
        .collect::<Result<_>>()?;
    let mut last = 0;
    wait_until("the stalled connections are full", || {
        std::thread::sleep(Duration::from_millis(300));
        let (is, was) = (carried(&one).unwrap_or_default(), last);
        last = is;
        is == was && is > 12 << 20
    })?;
    before.iter().try_for_each(Talk::ask)?;
    for _ in 0..4 {
        Talk::open(&client, workload.v4(ECHOES))?.close()?;
    }
    Ok(())
}
