//! The guard: nothing of an enrolled pod goes around the agent.

use anyhow::{Result, ensure};
use isthmus_tests::mesh::Mtls;

use crate::pair::{Pair, ensure_reset};

/// A SYN that no connect() made stays in the pod.
#[test]
fn core_raw_syn_is_dropped() -> Result<()> {
    let pair = Pair::start()?;
    let outsider = pair.mesh.outsider("outsider")?;
    let _server = outsider.serve("serve banner outside")?;
    let to = outsider.v4(8080);
    let capture = pair.mesh.capture()?;
    let seen = pair.client.client(&format!("raw-syn {to}"))?;
    let recording = capture.stop()?;
    ensure!(
        recording.syns().iter().all(|syn| syn.from.port() != 61_234),
        "the SYN got out: {seen} {:?}",
        recording.syns()
    );
    // The same from outside the mesh does get out, or the check above proves nothing.
    let other = pair.mesh.outsider("other")?;
    let capture = pair.mesh.capture()?;
    other.client(&format!("raw-syn {to}"))?;
    ensure!(
        capture
            .stop()?
            .syns()
            .iter()
            .any(|syn| syn.from.port() == 61_234),
        "the capture is blind"
    );
    Ok(())
}

/// A process in a pod's network namespace but of another pod's cgroup gets neither identity.
#[test]
fn a_foreign_cgroup_is_refused() -> Result<()> {
    let pair = Pair::prepare()?;
    let other = pair.a.pod("other")?;
    pair.start_agents()?;
    pair.a.wait_enrolled(&other)?;
    let _server = pair.server.serve("serve banner blue")?;
    let tool = isthmus_tests::process::own_program("traffic")?;
    let net = format!("--net={}", pair.client.netns().path().display());
    let tool = tool.display().to_string();
    let capture = pair.mesh.capture()?;
    let text = other
        .run(
            "nsenter",
            &[&net, &tool, "connect", &pair.server.v4(8080).to_string()],
        )?
        .success()?;
    let seen: serde_json::Value = serde_json::from_str(&text)?;
    ensure!(
        seen["connected"] == false && seen["errno"] == "EPERM",
        "{seen}"
    );
    let syns = capture.stop()?.syns().to_vec();
    ensure!(syns.is_empty(), "something went out: {syns:?}");
    Ok(())
}

/// The port of the agent's listener is no way in: neither from the pod nor from outside.
#[test]
fn core_the_listener_cannot_be_dialled() -> Result<()> {
    let pair = Pair::start()?;
    let outsider = pair.mesh.outsider("outsider")?;
    let listening = pair.client.run("cat", &["/proc/net/tcp6"])?.success()?;
    let ports: Vec<u16> = listening
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (local, state) = (words.next()?, words.nth(1)?);
            (state == "0A").then(|| u16::from_str_radix(local.rsplit(':').next()?, 16).ok())?
        })
        .collect();
    ensure!(
        !ports.is_empty(),
        "no listener of the agent in\n{listening}"
    );
    pair.mesh.mtls(Mtls::Strict)?;
    for port in ports {
        for (from, to) in [
            (&pair.client, pair.client.v4(port)),
            (&outsider, pair.client.v4(port)),
            (&pair.client, format!("127.0.0.1:{port}").parse()?),
        ] {
            let seen = from.client(&format!("connect {to} --send hello --to-end"))?;
            ensure!(
                seen["read"] == "" || seen["connected"] == false,
                "{to} answered: {seen}"
            );
        }
    }
    Ok(())
}

/// With its agent dead, a pod can neither reach nor be reached; its own loopback works.
#[test]
fn core_a_dead_agent_leaks_nothing() -> Result<()> {
    let pair = Pair::start()?;
    let outsider = pair.mesh.outsider("outsider")?;
    let _outside = outsider.serve("serve banner outside")?;
    let _server = pair.server.serve("serve banner blue")?;
    let _own = pair.client.serve("serve banner self --listen [::]:9000")?;
    pair.a.kill9()?;
    let capture = pair.mesh.capture()?;
    for to in [
        pair.server.v4(8080),
        pair.server.v6(8080),
        outsider.v4(8080),
        outsider.v6(8080),
    ] {
        for flags in ["", "--mptcp"] {
            let seen = pair
                .client
                .client(&format!("connect {to} {flags} --send marker-of-a-leak"))?;
            ensure!(
                seen["connected"] == false && seen["errno"] == "ECONNREFUSED",
                "{to} {flags}: {seen}"
            );
        }
    }
    for to in [pair.client.v4(9000), pair.client.v6(9000)] {
        let seen = outsider.client(&format!("connect {to} --send marker-of-a-leak"))?;
        ensure_reset(&seen)?;
    }
    let seen = pair.client.client("connect 127.0.0.1:9000")?;
    ensure!(
        seen["read"]
            .as_str()
            .is_some_and(|read| read.starts_with("self ")),
        "{seen}"
    );
    let recording = capture.stop()?;
    ensure!(!recording.contains(b"marker-of-a-leak"), "a leak");
    ensure!(
        recording
            .syns()
            .iter()
            .all(|syn| !pair.client.addresses().contains(&syn.from.ip())),
        "{:?}",
        recording.syns()
    );
    pair.a.start()?;
    pair.a.wait_enrolled(&pair.client)?;
    let seen = pair
        .client
        .client(&format!("connect {}", pair.server.v4(8080)))?;
    ensure!(
        seen["read"]
            .as_str()
            .is_some_and(|read| read.starts_with("blue ")),
        "{seen}"
    );
    Ok(())
}
