//! The wire as a client sees it: CONNECT requests and their statuses, and who is let into the
//! TLS handshake at all.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use http::header::{HeaderValue, USER_AGENT};
use http::{Method, StatusCode};
use isthmus_tests::wait::wait_until;
use mesh_agent::tls::{HandshakeFailure, handshake_failure};
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, SignatureScheme};

use crate::foreign::Authority;
use crate::wire_peer::{Peer, connect, dial};
use crate::wire_target::Target;

/// A client that sends none of the optional headers, and one that sends what nobody knows,
/// are both served: 200, then bytes both ways, then END_STREAM both ways.
#[test]
fn optional_headers_are_optional() -> Result<()> {
    let target = Target::start()?;
    let peer = Peer::new(&target.mesh)?;
    for address in [target.server.v4(8080), target.server.v6(8080)] {
        let at = SocketAddr::new(address.ip(), 15008);
        let tunnel = peer.tunnel(&target.client, &target.server, at)?;
        let mut odd = connect(&address.to_string());
        odd.headers_mut()
            .insert("x-unknown", HeaderValue::from_static("anything"));
        odd.headers_mut()
            .insert(USER_AGENT, HeaderValue::from_static("ztunnel/1.0"));
        for (name, broken) in [
            ("forwarded", "for=nonsense;;\"="),
            ("baggage", "=,=,%%%"),
            ("traceparent", "99"),
        ] {
            odd.headers_mut()
                .insert(name, HeaderValue::from_static(broken));
        }
        peer.run(async {
            for request in [connect(&address.to_string()), odd] {
                let mut answer = tunnel.ask(request).await?;
                ensure!(answer.status == StatusCode::OK, "{}", answer.status);
                answer.echo("there and back").await?;
                answer.send.send_data(bytes::Bytes::new(), true)?;
                while let Some(data) = answer.receive.data().await {
                    // END_STREAM comes on an empty frame.
                    ensure!(data?.is_empty(), "more than was sent came back");
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// What is aimed anywhere but at the tunnel's own address is 400, and reaches nothing.
#[test]
fn connect_to_another_address_is_400() -> Result<()> {
    let target = Target::start()?;
    let other = target.node.pod("other")?;
    target.node.wait_state(&other.uid(), "enrolled")?;
    let bystanders = [
        other.serve("serve hold --listen [::]:8080")?,
        target.server.serve("serve hold --listen 127.0.0.1:9090")?,
        target.server.serve("serve hold --listen [::1]:9090")?,
    ];
    let peer = Peer::new(&target.mesh)?;
    let tunnel = peer.tunnel(&target.client, &target.server, target.tunnel_port())?;
    let listener = target.agents_listener()?;
    let elsewhere = [
        other.v4(8080),
        target.server.v6(8080),
        "127.0.0.1:9090".parse()?,
        "[::1]:9090".parse()?,
        "[::ffff:127.0.0.1]:9090".parse()?,
        "0.0.0.0:9090".parse()?,
        target.server.v4(15008),
        target.server.v4(listener),
    ];
    peer.run(async {
        for address in elsewhere {
            let status = tunnel.status(&address.to_string()).await?;
            ensure!(
                status == StatusCode::BAD_REQUEST,
                "{address} was answered with {status}"
            );
        }
        // The tunnel itself is none the worse.
        let status = tunnel.status(&target.server.v4(8080).to_string()).await?;
        ensure!(status == StatusCode::OK, "{status}");
        Ok(())
    })?;
    target.wait_reason("WRONG_DESTINATION", &other.v4(8080).to_string())?;
    for server in bystanders {
        ensure!(server.stdout() == "ready\n", "reached: {}", server.stdout());
    }
    Ok(())
}

/// What is not a plain CONNECT to an address and port is 400.
#[test]
fn malformed_requests_are_400() -> Result<()> {
    let target = Target::start()?;
    let peer = Peer::new(&target.mesh)?;
    let tunnel = peer.tunnel(&target.client, &target.server, target.tunnel_port())?;
    let address = target.server.v4(8080);
    let mut get = connect(&format!("http://{address}/"));
    *get.method_mut() = Method::GET;
    let requests = [
        connect("server.default.svc.cluster.local:8080"),
        connect("localhost:8080"),
        connect(&address.ip().to_string()),
        connect(&format!("{}:0", address.ip())),
        connect(&format!("user@{address}")),
        get,
    ];
    peer.run(async {
        for request in requests {
            let what = format!("{} {}", request.method(), request.uri());
            let answer = tunnel.ask(request).await?;
            ensure!(
                answer.status == StatusCode::BAD_REQUEST,
                "{what}: {}",
                answer.status
            );
        }
        Ok(())
    })?;
    target.wait_reason("BAD_REQUEST", "CONNECT")?;
    target.wait_reason("BAD_REQUEST", "localhost:8080")
}

/// 200 says that the application has accepted; one that does not is 503.
#[test]
fn refusing_application_is_503() -> Result<()> {
    let target = Target::start()?;
    let peer = Peer::new(&target.mesh)?;
    let tunnel = peer.tunnel(&target.client, &target.server, target.tunnel_port())?;
    let closed = target.server.v4(8081);
    let status = peer.run(tunnel.status(&closed.to_string()))?;
    ensure!(status == StatusCode::SERVICE_UNAVAILABLE, "{status}");
    let line = target
        .node
        .wait_access("APP_REFUSED", |line| line["reason"] == "APP_REFUSED")?;
    ensure!(
        line["source_identity"] == target.client.identity(),
        "{line}"
    );
    Ok(())
}

/// Without a certificate of the mesh's own trust domain nobody gets past the handshake.
#[test]
fn only_certificates_of_the_mesh_are_let_in() -> Result<()> {
    let target = Target::start()?;
    let peer = Peer::new(&target.mesh)?;
    let (client, server) = (&target.client, &target.server);
    let certified = |key: CertifiedKey| -> Result<rustls::ClientConfig> {
        let mut config = peer.config(client, server)?;
        config.client_auth_cert_resolver = Arc::new(Fixed(Some(Arc::new(key))));
        Ok(config)
    };
    let own = Authority::of_the_mesh(&target.mesh)?;
    let foreign = Authority::new()?;
    let mut nobody = peer.config(client, server)?;
    nobody.client_auth_cert_resolver = Arc::new(Fixed(None));
    let uri = client.identity();
    let elsewhere = "spiffe://elsewhere.example/ns/default/sa/client";
    let cases = [
        (nobody, "TLS_NO_CLIENT_CERT", "no certificate"),
        (
            certified(own.leaf(&[elsewhere])?)?,
            "TLS_FOREIGN_TRUST_DOMAIN",
            elsewhere,
        ),
        (
            certified(foreign.leaf(&[&uri])?)?,
            "TLS_HANDSHAKE",
            "not signed by an authority",
        ),
        (certified(own.leaf(&[])?)?, "TLS_HANDSHAKE", "URI"),
        (
            certified(own.leaf(&[&uri, elsewhere])?)?,
            "TLS_HANDSHAKE",
            "URI",
        ),
        (certified(own.expired(&uri)?)?, "TLS_HANDSHAKE", "expired"),
    ];
    for (config, reason, detail) in cases {
        let refusal = peer
            .refusal(client, target.tunnel_port(), config)?
            .with_context(|| format!("a client that should get {reason} was let in"))?;
        let refusal = handshake_failure(&refusal);
        ensure!(
            matches!(refusal, HandshakeFailure::RefusedByPeer(_)),
            "{reason}: {refusal}"
        );
        target.wait_reason(reason, detail)?;
    }
    // The same way in, with nothing wrong.
    let config = certified(own.leaf(&[&uri])?)?;
    let refusal = peer.refusal(client, target.tunnel_port(), config)?;
    ensure!(refusal.is_none(), "{refusal:?}");
    Ok(())
}

/// Both ends must name `h2`: another protocol, or none, is refused.
#[test]
fn other_protocols_than_h2_are_refused() -> Result<()> {
    let target = Target::start()?;
    let peer = Peer::new(&target.mesh)?;
    let mut other = peer.config(&target.client, &target.server)?;
    other.alpn_protocols = vec![b"http/1.1".to_vec()];
    let refusal = peer
        .refusal(&target.client, target.tunnel_port(), other)?
        .context("http/1.1 was let in")?;
    let refusal = handshake_failure(&refusal);
    ensure!(
        matches!(
            refusal,
            HandshakeFailure::RefusedByPeer(AlertDescription::NoApplicationProtocol)
        ),
        "{refusal}"
    );
    target.wait_reason("TLS_HANDSHAKE", "h2")?;
    let mut none = peer.config(&target.client, &target.server)?;
    none.alpn_protocols.clear();
    let refusal = peer.refusal(&target.client, target.tunnel_port(), none)?;
    ensure!(refusal.is_some(), "a client without ALPN was let in");
    wait_until("the client without ALPN is in the log too", || {
        target.node.access_log().is_ok_and(|lines| {
            lines
                .iter()
                .filter(|line| line["reason"] == "TLS_HANDSHAKE")
                .count()
                == 2
        })
    })
}

/// OpenSSL gets in with TLS 1.3, and with nothing older.
#[test]
fn tls_12_is_refused() -> Result<()> {
    let target = Target::start()?;
    let leaf = Authority::of_the_mesh(&target.mesh)?.pem_leaf(&target.client.identity())?;
    let file = target.mesh.config().with_file_name("client.pem");
    std::fs::File::create(&file)?.write_all(leaf.as_bytes())?;
    let file = file.display().to_string();
    let at = target.tunnel_port().to_string();
    for (version, works) in [("-tls1_3", true), ("-tls1_2", false)] {
        let arguments = ["s_client", "-connect", &at, "-alpn", "h2", "-cert", &file];
        let seen = target.client.run(
            "openssl",
            &[
                &arguments[..],
                &["-cert_chain", &file, "-key", &file, version],
            ]
            .concat(),
        )?;
        let said = format!("{}{}", seen.stdout, seen.stderr);
        ensure!(
            said.contains("ALPN protocol: h2") == works,
            "{version}: {said}"
        );
        ensure!(
            works || said.contains("alert protocol version"),
            "{version}: {said}"
        );
    }
    target.wait_reason("TLS_HANDSHAKE", "TLS settings have no version")
}

/// Plain HTTP/2, without TLS, is no way in either.
#[test]
fn plaintext_on_the_tunnel_port_is_refused() -> Result<()> {
    let target = Target::start()?;
    let seen = target.client.client(&format!(
        "connect {} --send PRI --to-end",
        target.tunnel_port()
    ))?;
    let refused = seen["errno"] == "ECONNRESET" || seen["ended"] == true;
    ensure!(refused, "{seen}");
    target.wait_reason("TLS_HANDSHAKE", "does not speak TLS")?;
    // And nobody waits for ever for one who does not speak.
    drop(dial(&target.client, target.tunnel_port())?);
    target.wait_reason("TLS_HANDSHAKE", "broke off")
}

/// Presents one certificate, or none.
#[derive(Debug)]
pub(crate) struct Fixed(pub(crate) Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Fixed {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}
