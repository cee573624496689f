//! Inbound: what reaches a pod, and what the application sees of it.

use anyhow::{Result, ensure};
use isthmus_tests::mesh::Mtls;

use crate::pair::{Banner, Pair, ensure_reset};

/// STRICT refuses a client outside the mesh, on ports with and without a listener.
#[test]
fn core_strict_refuses_plaintext() -> Result<()> {
    let pair = Pair::prepare()?;
    pair.mesh.mtls(Mtls::Strict)?;
    pair.start_agents()?;
    let outsider = pair.mesh.outsider("outsider")?;
    let _server = pair.server.serve("serve banner blue")?;
    for to in [
        pair.server.v4(8080),
        pair.server.v6(8080),
        pair.server.v4(8099),
    ] {
        let seen = outsider.client(&format!("connect {to} --send hello"))?;
        ensure_reset(&seen)?;
        ensure!(
            !seen["read"]
                .as_str()
                .is_some_and(|read| read.contains("blue")),
            "{seen}"
        );
    }
    let line = pair
        .b
        .wait_access("the refusal", |line| line["reason"] == "PLAINTEXT_REFUSED")?;
    ensure!(
        line["outcome"] == "denied" && line["pod"] == "default/server",
        "{line}"
    );
    // From the mesh it goes on.
    pair.ensure_blue()
}

/// PERMISSIVE relays it, and the application sees the client as if nothing were between.
#[test]
fn core_permissive_relays_plaintext() -> Result<()> {
    let pair = Pair::start()?;
    let outsider = pair.mesh.outsider("outsider")?;
    let _server = pair.server.serve("serve banner blue")?;
    for (to, from) in [
        (pair.server.v4(8080), outsider.v4(0)),
        (pair.server.v6(8080), outsider.v6(0)),
    ] {
        let seen = outsider.client(&format!("connect {to}"))?;
        let banner = Banner::of(&seen)?;
        let own: std::net::SocketAddr = seen["getsockname"].as_str().unwrap_or_default().parse()?;
        ensure!(
            banner.accept == own && banner.peer == own,
            "the client is {own}, the server saw {banner:?}"
        );
        ensure!(own.ip() == from.ip() && banner.local == to, "{banner:?}");
    }
    let line = pair
        .b
        .wait_access("the plaintext", |line| line["security"] == "plaintext")?;
    ensure!(
        line["outcome"] == "ok" && line["source_identity"].is_null(),
        "{line}"
    );
    Ok(())
}

/// An application that listens on the loopback alone stays private.
#[test]
fn a_loopback_listener_stays_private() -> Result<()> {
    let pair = Pair::start()?;
    let outsider = pair.mesh.outsider("outsider")?;
    let _private = pair
        .server
        .serve("serve banner private --listen 127.0.0.1:7000")?;
    for from in [&pair.client, &outsider] {
        let seen = from.client(&format!("connect {} --send hello", pair.server.v4(7000)))?;
        ensure!(
            !seen["read"]
                .as_str()
                .is_some_and(|read| read.contains("private")),
            "{seen}"
        );
        ensure_reset(&seen)?;
    }
    let line = pair
        .b
        .wait_access("the refusal", |line| line["reason"] == "APP_REFUSED")?;
    ensure!(line["pod"] == "default/server", "{line}");
    Ok(())
}

/// The application sees the client's port too: each connection's own, under many at once.
#[test]
fn each_client_address_is_its_own() -> Result<()> {
    let pair = Pair::start()?;
    let _server = pair.server.serve("serve banner blue")?;
    let work = || -> Result<()> {
        for _ in 0..10 {
            let seen = pair
                .client
                .client(&format!("connect {}", pair.server.v4(8080)))?;
            let banner = Banner::of(&seen)?;
            let own: std::net::SocketAddr =
                seen["getsockname"].as_str().unwrap_or_default().parse()?;
            ensure!(
                banner.peer == own && banner.accept == own,
                "the client is {own}, the server saw {banner:?}"
            );
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("no panic"))
    })
}
