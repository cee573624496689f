//! What comes to a pod: who may reach the application, and whom the application sees.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Mesh, Mtls, Node, Pod};
use serde_json::Value;

use crate::pair::Pair;

/// STRICT: a client without the mesh is reset, whether the port is open or not, and both
/// the log and the metric say why.
#[test]
fn core_strict_refuses_plaintext() -> Result<()> {
    let mesh = Mesh::new()?;
    mesh.mtls(Mtls::Strict)?;
    let node = mesh.node("one")?;
    let server = node.pod("server")?;
    let outsider = mesh.outsider("outsider")?;
    node.start()?;
    node.wait_state(&server.uid(), "enrolled")?;
    let banner = server.serve("serve banner blue --listen [::]:8080")?;
    for to in [
        server.v4(8080),
        server.v6(8080),
        server.v4(8081),
        server.v6(8081),
    ] {
        refused_as_plaintext(&outsider, &node, to)?;
    }
    let refused = node.metric(
        "isthmus_connections_refused_total",
        &[r#"direction="inbound""#, r#"reason="PLAINTEXT_REFUSED""#],
    )?;
    ensure!((refused - 4.0).abs() < 0.5, "the metric counts {refused}");
    ensure!(
        banner.stdout() == "ready\n",
        "the application was reached: {}",
        banner.stdout()
    );
    // It is not the server that is broken: the pod itself reaches it.
    let own = server.client(&format!("connect {}", server.v4(8080)))?;
    ensure!(saw(&own)?.starts_with("blue "), "{own}");
    Ok(())
}

fn refused_as_plaintext(outsider: &Pod, node: &Node, to: SocketAddr) -> Result<()> {
    let seen = outsider.client(&format!("connect {to} --send hello --to-end"))?;
    ensure!(seen["errno"] == "ECONNRESET", "{to}: {seen}");
    ensure!(seen["read"] == "", "{to}: {seen}");
    node.wait_access(&format!("PLAINTEXT_REFUSED of {to}"), |line| {
        line["dst"] == to.to_string()
            && line["reason"] == "PLAINTEXT_REFUSED"
            && line["outcome"] == "denied"
            && line["direction"] == "inbound"
            && line["bytes_received"] == 0
    })?;
    Ok(())
}

/// PERMISSIVE: the same client is served, and the application sees its real address, by
/// accept() and by getpeername(), in both families.
#[test]
fn core_permissive_relays_plaintext_with_the_clients_address() -> Result<()> {
    let mesh = Mesh::new()?;
    mesh.mtls(Mtls::Permissive)?;
    let node = mesh.node("one")?;
    let server = node.pod("server")?;
    let outsider = mesh.outsider("outsider")?;
    node.start()?;
    node.wait_state(&server.uid(), "enrolled")?;
    let _banner = server.serve("serve banner blue --listen [::]:8080")?;
    for (to, from) in [
        (server.v4(8080), outsider.v4(40_404)),
        (server.v6(8080), outsider.v6(40_406)),
    ] {
        let seen = outsider.client(&format!("connect {to} --bind {from}"))?;
        ensure_banner(&seen, from, to)?;
        let line = node.wait_access(&format!("plaintext from {from}"), |line| {
            line["src"] == from.to_string()
        })?;
        ensure!(
            line["security"] == "plaintext" && line["outcome"] == "ok",
            "{line}"
        );
        ensure!(line["source_identity"].is_null(), "{line}");
    }
    // A closed port is a reset, not an end of data.
    let seen = outsider.client(&format!("connect {} --to-end", server.v4(8081)))?;
    ensure!(seen["errno"] == "ECONNRESET", "{seen}");
    node.wait_access("APP_REFUSED", |line| line["reason"] == "APP_REFUSED")?;
    Ok(())
}

/// Through the mesh the application sees the address and port of the client's own socket,
/// which is not the socket that connects to it.
#[test]
fn core_mesh_client_is_seen_by_its_own_address() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let _banner = pair.server.serve("serve banner blue --listen [::]:8080")?;
    for (to, from) in [
        (pair.server.v4(8080), pair.client.v4(40_404)),
        (pair.server.v6(8080), pair.client.v6(40_406)),
    ] {
        let seen = pair.client.client(&format!("connect {to} --bind {from}"))?;
        ensure_banner(&seen, from, to)?;
        let line = pair
            .two
            .wait_access(&format!("the client {from}"), |line| {
                line["client"] == from.to_string()
            })?;
        ensure!(line["source_identity"] == pair.client.identity(), "{line}");
        ensure!(
            line["destination_identity"] == pair.server.identity(),
            "{line}"
        );
        ensure!(line["security"] == "mutual_tls", "{line}");
    }
    Ok(())
}

/// Only the pod's own address is dialled: what listens on the loopback alone, or on nothing,
/// is as closed through the mesh as it is from the network.
#[test]
fn core_loopback_servers_stay_private() -> Result<()> {
    let pair = Pair::new(Mtls::Permissive)?;
    let outsider = pair.mesh.outsider("outsider")?;
    let four = pair
        .server
        .serve("serve banner private --listen 127.0.0.1:8080")?;
    let six = pair
        .server
        .serve("serve banner private --listen [::1]:8080")?;
    for to in [pair.server.v4(8080), pair.server.v6(8080)] {
        for from in [&pair.client, &outsider] {
            let seen = from.client(&format!("connect {to} --to-end"))?;
            ensure!(seen["errno"] == "ECONNRESET", "{to}: {seen}");
            ensure!(seen["read"] == "", "{to}: {seen}");
        }
        let line = pair.one.wait_access("APP_REFUSED", |line| {
            line["dst"] == to.to_string() && line["reason"] == "APP_REFUSED"
        })?;
        ensure!(
            line["detail"].as_str().is_some_and(|d| d.contains("503")),
            "{line}"
        );
    }
    for server in [four, six] {
        ensure!(server.stdout() == "ready\n", "reached: {}", server.stdout());
    }
    Ok(())
}

/// The line that a `banner` server sent.
fn saw(seen: &Value) -> Result<&str> {
    seen["read"]
        .as_str()
        .with_context(|| format!("nothing was read: {seen}"))
}

fn ensure_banner(seen: &Value, from: SocketAddr, to: SocketAddr) -> Result<()> {
    // A dual-stack server sees IPv4 clients in mapped form, with the mesh and without.
    let mapped = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => {
            SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()).to_string()
        }
        SocketAddr::V6(_) => address.to_string(),
    };
    let (from, to) = (mapped(from), mapped(to));
    let wanted = format!("blue accept={from} peer={from} local={to}\n");
    ensure!(saw(seen)? == wanted, "the server saw {seen} not {wanted}");
    Ok(())
}
