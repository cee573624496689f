//! The wire as the server at its other end sees it: a ztunnel, played by the test, in front of
//! a workload on a node where no agent of ours runs.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use http::{Method, Response, StatusCode};
use isthmus_tests::mesh::{Mesh, Mtls, Node, Pod};
use mesh_agent::hbone::TraceParent;
use rustls::ProtocolVersion;
use serde_json::Value;

use crate::wire_peer::{Peer, Task};
use crate::wire_server::{self, Asked};

/// Our client pod, and a workload whose tunnels end at the test.
struct Other {
    client: Pod,
    workload: Pod,
    one: Node,
    _two: Node,
    mesh: Mesh,
    peer: Peer,
    listener: Arc<TcpListener>,
}

impl Other {
    fn start() -> Result<Self> {
        let mesh = Mesh::new()?;
        mesh.mtls(Mtls::Strict)?;
        let (one, two) = (mesh.node("one")?, mesh.node("two")?);
        let (client, workload) = (one.pod("client")?, two.pod("workload")?);
        one.start()?;
        one.wait_state(&client.uid(), "enrolled")?;
        let peer = Peer::new(&mesh)?;
        Ok(Self {
            listener: Arc::new(wire_server::listen(&workload)?),
            client,
            workload,
            one,
            _two: two,
            mesh,
            peer,
        })
    }

    /// A server for one tunnel as `identity`, which answers its first request with `status`
    /// and, when that is 200, sends back what comes.
    fn serve(&self, identity: &str, status: StatusCode) -> Result<Task<Asked>> {
        let listener = self.listener.clone();
        let credential = self.peer.credential(identity)?;
        Ok(self
            .peer
            .spawn(wire_server::serve_one(listener, credential, status)))
    }

    fn ask(&self, to: SocketAddr) -> Result<Value> {
        let from = match to {
            SocketAddr::V4(_) => self.client.v4(40_404),
            SocketAddr::V6(_) => self.client.v6(40_406),
        };
        let capture = self.mesh.capture()?;
        let seen = self.client.client(&format!(
            "connect {to} --bind {from} --send marker-Q7x --to-end --half-close"
        ))?;
        ensure!(
            !capture.stop()?.contains(b"marker-Q7x"),
            "the marker was seen in the clear"
        );
        Ok(seen)
    }
}

/// TLS 1.3, ALPN `h2`, no SNI, the client's certificate, one CONNECT with `:authority`, the
/// three headers and nothing else; the half-close arrives as END_STREAM.
#[test]
fn ztunnel_gets_what_it_expects() -> Result<()> {
    let other = Other::start()?;
    for (to, from) in [
        (other.workload.v4(8080), other.client.v4(40_404)),
        (other.workload.v6(8080), other.client.v6(40_406)),
    ] {
        let server = other.serve(&other.workload.identity(), StatusCode::OK)?;
        let seen = other.ask(to)?;
        ensure!(
            seen["read"] == "marker-Q7x\n" && seen["ended"] == true,
            "{seen}\n{}",
            other.one.log_tail()
        );
        let asked = server.join(&other.peer)?;
        ensure!(
            asked.server_name.is_none(),
            "SNI names {:?}",
            asked.server_name
        );
        ensure!(
            asked.offered == [b"h2".to_vec()],
            "ALPN offers {:?}",
            asked.offered
        );
        ensure!(
            asked.version == Some(ProtocolVersion::TLSv1_3),
            "{:?}",
            asked.version
        );
        ensure!(
            asked.client == other.client.identity(),
            "the client presented {}",
            asked.client
        );
        ensure_request(&asked, from, to)?;
    }
    Ok(())
}

fn ensure_request(asked: &Asked, from: SocketAddr, to: SocketAddr) -> Result<()> {
    let head = &asked.head;
    ensure!(head.method == Method::CONNECT, "{head:?}");
    ensure!(
        head.uri.to_string() == to.to_string()
            && head.uri.scheme().is_none()
            && head.uri.path_and_query().is_none(),
        "{head:?}"
    );
    let mut names: Vec<_> = head.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    ensure!(
        names == ["baggage", "forwarded", "traceparent"] && head.headers.len() == names.len(),
        "{:?}",
        head.headers
    );
    ensure!(
        head.headers["forwarded"] == format!("for=\"{from}\""),
        "{:?}",
        head.headers
    );
    ensure!(
        head.headers["baggage"]
            == "k8s.namespace.name=default,k8s.pod.name=client,service.name=client",
        "{:?}",
        head.headers
    );
    let trace = head.headers["traceparent"].to_str()?;
    ensure!(TraceParent::parse(trace).is_some(), "traceparent: {trace}");
    ensure!(asked.came == b"marker-Q7x\n", "{:?} came", asked.came);
    Ok(())
}

/// Every refusal of the other end reaches the application as a reset, each with its reason.
#[test]
fn refusals_of_ztunnel_reset_the_application() -> Result<()> {
    let other = Other::start()?;
    for (status, reason) in [
        (StatusCode::BAD_REQUEST, "UPSTREAM_REJECTED"),
        (StatusCode::UNAUTHORIZED, "UPSTREAM_DENIED"),
        (StatusCode::SERVICE_UNAVAILABLE, "APP_REFUSED"),
        (StatusCode::IM_A_TEAPOT, "UPSTREAM_REJECTED"),
    ] {
        let server = other.serve(&other.workload.identity(), status)?;
        let seen = other.ask(other.workload.v4(8080))?;
        ensure!(seen["errno"] == "ECONNRESET", "{status}: {seen}");
        server.join(&other.peer)?;
        other.one.wait_access(&format!("{status}"), |line| {
            line["reason"] == reason
                && line["detail"]
                    .as_str()
                    .is_some_and(|detail| detail.contains(status.as_str()))
        })?;
    }
    Ok(())
}

/// Another workload of the same mesh at the destination's address gets no byte: the handshake
/// fails, and the log names whom we expected and who answered.
#[test]
fn wrong_identity_fails_the_handshake() -> Result<()> {
    let other = Other::start()?;
    let impostor = "spiffe://cluster.local/ns/default/sa/impostor";
    for to in [other.workload.v4(8080), other.workload.v6(8080)] {
        let server = other.serve(impostor, StatusCode::OK)?;
        let seen = other.ask(to)?;
        ensure!(seen["errno"] == "ECONNRESET", "{seen}");
        ensure!(
            server.join(&other.peer).is_err(),
            "the impostor got a request"
        );
        let line = other.one.wait_access("UPSTREAM_WRONG_IDENTITY", |line| {
            line["reason"] == "UPSTREAM_WRONG_IDENTITY" && line["dst"] == to.to_string()
        })?;
        let detail = line["detail"].as_str().unwrap_or_default();
        ensure!(
            detail.contains(&format!("expected {}", other.workload.identity()))
                && detail.contains(&format!("presented {impostor}")),
            "{line}"
        );
        ensure!(line["bytes_sent"] == 0, "{line}");
    }
    Ok(())
}

/// A reset of the stream is a reset of the application's connection.
#[test]
fn stream_reset_by_ztunnel_resets_the_application() -> Result<()> {
    let other = Other::start()?;
    let listener = other.listener.clone();
    let credential = other.peer.credential(&other.workload.identity())?;
    let server = other.peer.spawn(async move {
        let mut tunnel = wire_server::accept(&listener, &credential).await?;
        let Some(request) = tunnel.connection.accept().await else {
            bail!("no request came")
        };
        let (request, mut respond) = request?;
        let mut send = respond.send_response(Response::new(()), false)?;
        // What the client sends shows that it got the answer; a reset overtakes what waits.
        let mut body = request.into_body();
        tokio::select! {
            data = body.data() => ensure!(matches!(data, Some(Ok(_))), "{data:?} came"),
            more = tunnel.connection.accept() => bail!("then came {more:?}"),
        }
        send.send_reset(h2::Reason::INTERNAL_ERROR);
        // Until the client has left.
        while let Some(Ok(_)) = tunnel.connection.accept().await {}
        Ok(())
    });
    let seen = other.ask(other.workload.v4(8080))?;
    ensure!(seen["errno"] == "ECONNRESET", "{seen}");
    other
        .one
        .wait_access("PEER_RESET", |line| line["reason"] == "PEER_RESET")?;
    drop(server);
    Ok(())
}
