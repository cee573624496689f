//! Outbound: where a connection goes, as whom, and what an application learns of a failure.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use isthmus_tests::mesh::ServicePort;

use crate::pair::{Banner, Pair, ensure_reset};

/// A Service's address, of either family, leads to its ready endpoints, and to no other.
#[test]
fn core_a_service_leads_to_ready_endpoints() -> Result<()> {
    let pair = Pair::prepare()?;
    let (second, unready) = (pair.b.pod("second")?, pair.b.pod("unready")?);
    let ports = [ServicePort {
        port: 80,
        target: 8080,
    }];
    let (v4, v6) = pair.mesh.service(
        "web",
        &ports,
        &[(&pair.server, true), (&second, true), (&unready, false)],
    )?;
    pair.start_agents()?;
    pair.b.wait_enrolled(&second)?;
    let _servers = [
        (&pair.server, "first"),
        (&second, "second"),
        (&unready, "unready"),
    ]
    .map(|(pod, name)| pod.serve(&format!("serve banner {name}")));
    for address in [format!("{v4}:80"), format!("[{v6}]:80")] {
        let mut reached = BTreeSet::new();
        for _ in 0..30 {
            let seen = pair.client.client(&format!("connect {address}"))?;
            ensure!(
                seen["getpeername"] == address,
                "the client must see the service: {seen}"
            );
            reached.insert(Banner::of(&seen)?.name);
        }
        ensure!(
            reached.iter().eq(["first", "second"]),
            "{address} reached {reached:?}"
        );
    }
    let line = pair
        .a
        .wait_access("the service", |line| line["service"] == "default/web")?;
    ensure!(line["dst"] == format!("{v4}:80"), "{line}");
    Ok(())
}

/// A port that the Service lacks, and a Service without a ready endpoint, are refused at once,
/// each with its reason.
#[test]
fn a_service_that_cannot_answer() -> Result<()> {
    let pair = Pair::prepare()?;
    let (web, _) = pair
        .mesh
        .service("web", &[80.into()], &[(&pair.server, true)])?;
    let (empty, _) = pair
        .mesh
        .service("empty", &[80.into()], &[(&pair.server, false)])?;
    pair.start_agents()?;
    for (address, reason) in [
        (format!("{web}:81"), "SERVICE_NO_PORT"),
        (format!("{empty}:80"), "SERVICE_NO_ENDPOINT"),
    ] {
        let seen = pair
            .client
            .client(&format!("connect {address} --send hello"))?;
        ensure_reset(&seen)?;
        pair.a.wait_access(reason, |line| {
            line["reason"] == reason && line["dst"] == address
        })?;
    }
    Ok(())
}

/// An address outside the mesh is reached as plain TCP, in the pod's own name.
#[test]
fn core_an_address_outside_the_mesh() -> Result<()> {
    let pair = Pair::start()?;
    let outsider = pair.mesh.outsider("outsider")?;
    let _server = outsider.serve("serve banner outside")?;
    for (to, own) in [
        (outsider.v4(8080), pair.client.v4(0)),
        (outsider.v6(8080), pair.client.v6(0)),
    ] {
        let capture = pair.mesh.capture()?;
        let seen = pair
            .client
            .client(&format!("connect {to} --send in-the-clear"))?;
        let banner = Banner::of(&seen)?;
        ensure!(
            banner.name == "outside" && banner.accept.ip() == own.ip(),
            "{seen}"
        );
        ensure!(seen["getpeername"] == to.to_string(), "{seen}");
        ensure!(
            capture.stop()?.contains(b"in-the-clear"),
            "it should have been plain TCP"
        );
    }
    let line = pair.a.wait_access("the plain connection", |line| {
        line["dst"] == outsider.v4(8080).to_string()
    })?;
    ensure!(
        line["security"] == "plaintext" && line["outcome"] == "ok",
        "{line}"
    );
    Ok(())
}

/// A failure upstream is a reset at the application, and its reason is in the log.
#[test]
fn core_failures_are_resets_with_reasons() -> Result<()> {
    let pair = Pair::start()?;
    let outsider = pair.mesh.outsider("outsider")?;
    // Nothing listens: in the mesh, outside of it; and nobody has the last address.
    for (to, reasons) in [
        (pair.server.v4(4444), &["APP_REFUSED"][..]),
        (pair.server.v6(4444), &["APP_REFUSED"]),
        (outsider.v4(4444), &["UPSTREAM_REFUSED"]),
        (
            "10.7.250.250:80".parse()?,
            &["UPSTREAM_UNREACHABLE", "UPSTREAM_TIMEOUT"],
        ),
    ] {
        let seen = pair.client.client(&format!("connect {to} --send hello"))?;
        ensure_reset(&seen)?;
        let line = pair
            .a
            .wait_access(&format!("{to}"), |line| line["dst"] == to.to_string())?;
        let reason = line["reason"].as_str().unwrap_or_default();
        ensure!(
            reasons.contains(&reason) && line["outcome"] == "failed",
            "{line}"
        );
    }
    Ok(())
}

/// The peer's node is gone: a reset, and traffic flows again when it is back.
#[test]
fn the_other_node_is_gone_for_a_while() -> Result<()> {
    let pair = Pair::start()?;
    let _server = pair.server.serve("serve banner blue")?;
    let to = pair.server.v4(8080);
    ensure!(
        Banner::of(&pair.client.client(&format!("connect {to}"))?)?.name == "blue",
        "before"
    );
    pair.b.kill9()?;
    let capture = pair.mesh.capture()?;
    let seen = pair
        .client
        .client(&format!("connect {to} --send marker-of-a-fallback"))?;
    ensure_reset(&seen)?;
    ensure!(
        !capture.stop()?.contains(b"marker-of-a-fallback"),
        "fell back to plaintext"
    );
    pair.b.start()?;
    pair.b.wait_enrolled(&pair.server)?;
    ensure!(
        Banner::of(&pair.client.client(&format!("connect {to}"))?)?.name == "blue",
        "after"
    );
    Ok(())
}

/// Two pods of one node talk through their agent, as themselves.
#[test]
fn pods_of_one_node() -> Result<()> {
    let pair = Pair::prepare()?;
    let neighbour = pair.a.pod("neighbour")?;
    pair.start_agents()?;
    pair.a.wait_enrolled(&neighbour)?;
    let _server = neighbour.serve("serve banner next-door")?;
    let capture = pair.mesh.capture()?;
    for to in [neighbour.v4(8080), neighbour.v6(8080)] {
        let seen = pair
            .client
            .client(&format!("connect {to} --send marker-next-door"))?;
        let banner = Banner::of(&seen)?;
        ensure!(
            banner.name == "next-door" && pair.client.addresses().contains(&banner.peer.ip()),
            "{seen}"
        );
    }
    ensure!(
        !capture.stop()?.contains(b"marker-next-door"),
        "in the clear"
    );
    let line = pair
        .a
        .wait_access("the inbound side", |line| line["direction"] == "inbound")?;
    ensure!(line["source_identity"] == pair.client.identity(), "{line}");
    Ok(())
}

/// A pod reaches itself through its own Service.
#[test]
fn a_pod_reaches_itself_through_its_service() -> Result<()> {
    let pair = Pair::prepare()?;
    let (v4, v6) = pair
        .mesh
        .service("own", &[80.into()], &[(&pair.client, true)])?;
    pair.start_agents()?;
    let _server = pair.client.serve("serve banner self --listen [::]:80")?;
    for address in [format!("{v4}:80"), format!("[{v6}]:80")] {
        let seen = pair.client.client(&format!("connect {address}"))?;
        ensure!(Banner::of(&seen)?.name == "self", "{seen}");
    }
    Ok(())
}

/// A pod without IPv6 cannot open anything in that family around the agent.
#[test]
fn a_pod_without_ipv6() -> Result<()> {
    let pair = Pair::prepare()?;
    let old = pair
        .a
        .pod_with(isthmus_tests::mesh::PodSpec::new("old").only_v4())?;
    pair.start_agents()?;
    pair.a.wait_enrolled(&old)?;
    let _server = pair.server.serve("serve banner blue")?;
    let capture = pair.mesh.capture()?;
    let seen = old.client(&format!("connect {}", pair.server.v6(8080)))?;
    ensure!(seen["connected"] == false, "{seen}");
    let seen = old.client(&format!("connect {}", pair.server.v4(8080)))?;
    ensure!(Banner::of(&seen)?.name == "blue", "{seen}");
    ensure!(
        capture.stop()?.beside(15008).is_empty(),
        "beside the tunnel"
    );
    Ok(())
}
