//! Outbound in places of its own: the same node, another node that is away, a pod of one family.

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::PodSpec;

use crate::pair::{Banner, Pair, ensure_reset};

/// The peer's node is gone: a reset, and traffic flows again when it is back.
#[test]
fn the_other_node_is_gone_for_a_while() -> Result<()> {
    let pair = Pair::start()?;
    let _server = pair.server.serve("serve banner blue")?;
    let to = pair.server.v4(8080);
    pair.ensure_blue().context("before")?;
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
    pair.ensure_blue().context("after")
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

/// A pod without IPv6 cannot open anything in that family around the agent.
#[test]
fn a_pod_without_ipv6() -> Result<()> {
    let pair = Pair::prepare()?;
    let old = pair.a.pod_with(PodSpec::new("old").only_v4())?;
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
