//! Floods of connections that do not finish their handshake, and the tunnels of others
//! meanwhile.

use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::Pod;

use crate::wire_peer::Peer;
use crate::wire_target::Target;

/// More than the slots of one pod (512).
const FLOOD: usize = 700;

fn silent(stranger: &Pod, target: &Target, count: usize) -> Result<Vec<TcpStream>> {
    let at = target.tunnel_port();
    stranger.netns().run(|| {
        (0..count)
            .map(|n| TcpStream::connect(at).with_context(|| format!("silent connection {n}")))
            .collect()
    })
}

/// More silent connections of one stranger than there are slots: every new tunnel of another
/// node is served, and the connections that made room have their reason.
#[test]
fn handshakes_of_others_succeed_while_a_stranger_floods_a_pod() -> Result<()> {
    let target = Target::start()?;
    let stranger = target.mesh.outsider("stranger")?;
    let peer = Peer::new(&target.mesh)?;
    target.ensure_serving(&peer)?;
    let mut held = silent(&stranger, &target, FLOOD)?;
    for attempt in 0..10 {
        target
            .ensure_serving(&peer)
            .with_context(|| format!("tunnel {attempt} during the flood"))?;
        held.extend(silent(&stranger, &target, 20)?);
    }
    target.wait_reason("HANDSHAKE_LIMIT", "dropped for another connection")?;
    let metrics = target.node.http("/metrics")?;
    let limit = metrics
        .lines()
        .find_map(|line| line.strip_prefix("isthmus_handshakes_limit "))
        .context("no isthmus_handshakes_limit")?;
    ensure!(limit.parse::<f64>()? >= 512.0, "{limit}");
    Ok(())
}
