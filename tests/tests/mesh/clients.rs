//! Whom the application and the log see as the client, and who is turned away.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use isthmus_tests::mesh::Mtls;
use serde_json::Value;

use crate::pair::{Banner, Pair};

/// Through the mesh the application sees the address and port of the client's own socket, by
/// accept() and by getpeername(), and the log has both proven identities.
#[test]
fn core_mesh_client_is_seen_by_its_own_address() -> Result<()> {
    let pair = strict()?;
    let _banner = pair.server.serve("serve banner blue")?;
    for (to, from) in [
        (pair.server.v4(8080), pair.client.v4(40_404)),
        (pair.server.v6(8080), pair.client.v6(40_406)),
    ] {
        let seen = pair.client.client(&format!("connect {to} --bind {from}"))?;
        ensure_seen(&seen, from, to)?;
        let line = pair.b.wait_access(&format!("the client {from}"), |line| {
            line["client"] == from.to_string()
        })?;
        ensure!(
            line["source_identity"] == pair.client.identity()
                && line["destination_identity"] == pair.server.identity()
                && line["security"] == "mutual_tls",
            "{line}"
        );
    }
    Ok(())
}

/// Outside the mesh a client is seen by its own address too, chosen port and all.
#[test]
fn core_plaintext_client_is_seen_by_its_own_address() -> Result<()> {
    let pair = Pair::start()?;
    let outsider = pair.mesh.outsider("outsider")?;
    let _banner = pair.server.serve("serve banner blue")?;
    for (to, from) in [
        (pair.server.v4(8080), outsider.v4(40_404)),
        (pair.server.v6(8080), outsider.v6(40_406)),
    ] {
        let seen = outsider.client(&format!("connect {to} --bind {from}"))?;
        ensure_seen(&seen, from, to)?;
    }
    Ok(())
}

/// STRICT counts and logs each refusal, open port or closed, in both families; the
/// application learns nothing of it, and no byte goes either way.
#[test]
fn refused_plaintext_is_counted_and_logged() -> Result<()> {
    let pair = strict()?;
    let outsider = pair.mesh.outsider("outsider")?;
    let echo = pair.server.serve("serve echo")?;
    for to in [
        pair.server.v4(8080),
        pair.server.v6(8080),
        pair.server.v4(8081),
        pair.server.v6(8081),
    ] {
        let seen = outsider.client(&format!("connect {to} --send hello --half-close --to-end"))?;
        ensure!(
            seen["errno"] == "ECONNRESET" && seen["read"] == "",
            "{to}: {seen}"
        );
        pair.b
            .wait_access(&format!("PLAINTEXT_REFUSED of {to}"), |line| {
                line["dst"] == to.to_string()
                    && line["reason"] == "PLAINTEXT_REFUSED"
                    && line["bytes_sent"] == 0
                    && line["bytes_received"] == 0
            })?;
    }
    let labels = [r#"direction="inbound""#, r#"reason="PLAINTEXT_REFUSED""#];
    let counted = pair
        .b
        .metric("isthmus_connections_refused_total", &labels)?;
    ensure!((counted - 4.0).abs() < 0.5, "the metric says {counted}");
    ensure!(echo.stdout() == "ready\n", "reached: {}", echo.stdout());
    Ok(())
}

fn strict() -> Result<Pair> {
    let pair = Pair::prepare()?;
    pair.mesh.mtls(Mtls::Strict)?;
    pair.start_agents()?;
    Ok(pair)
}

fn ensure_seen(seen: &Value, from: SocketAddr, to: SocketAddr) -> Result<()> {
    let banner = Banner::of(seen)?;
    ensure!(
        banner.accept == from && banner.peer == from && banner.local == to,
        "{from} to {to} was seen as {banner:?}"
    );
    Ok(())
}
