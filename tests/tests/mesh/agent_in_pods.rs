//! An agent that is a pod itself, as a `DaemonSet`'s is: its cgroup lies below the pods cgroup,
//! to which the programs are attached, and its cgroup namespace hides where.

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Mtls, PodSpec};
use isthmus_tests::traffic::Flood;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::asked::{Crossing, counted, crossing};
use crate::pair::{Banner, Pair};

fn pair(namespaced: bool) -> Result<Pair> {
    let pair = Pair::prepare()?;
    pair.mesh.mtls(Mtls::Strict)?;
    for node in [&pair.a, &pair.b] {
        node.put_agents_in_pod("agent-1", namespaced)?;
    }
    pair.start_agents()?;
    Ok(pair)
}

/// It carries traffic into the mesh and out of it, shows applications their clients, and in a
/// pod's namespace nobody else is let through. After `kill -9` all is as before.
fn carries(namespaced: bool) -> Result<()> {
    let pair = pair(namespaced)?;
    let outsider = pair.mesh.outsider("outsider")?;
    // In the pods cgroup, as the agent is.
    let bystander = pair.a.pod_with(PodSpec::new("bystander").outside())?;
    let _servers = (
        pair.server.serve("serve banner blue --listen [::]:7000")?,
        pair.server.serve("serve echo")?,
        outsider.serve("serve echo")?,
    );
    for round in ["first", "after a restart"] {
        ensure!(crossing(&pair.mesh, &pair.client, &pair.server)? == Crossing::Encrypted);
        shows_clients(&pair).context(round)?;
        for to in [outsider.v4(8080), outsider.v6(8080)] {
            let seen = pair.client.client(&format!("connect {to} --send x"))?;
            ensure!(seen["read"] == "x\n", "{round}, out of the mesh: {seen}");
            // Nobody else borrows a pod's way out, whatever the agent may do.
            let words = format!("connect {to} --send x");
            let seen = bystander.client_intruding(&pair.client, &words)?;
            ensure!(seen["errno"] == "EPERM", "{round}, an intruder: {seen}");
        }
        for node in [&pair.a, &pair.b] {
            ensure!(counted(node, "guard_egress_strict")? == 0, "{round}");
            let audit = node.cli("audit")?;
            let states: Vec<_> = states(&audit)?;
            ensure!(
                states.iter().all(|state| *state == "covered"),
                "{round}: {audit}"
            );
            node.restart()?;
        }
        pair.wait_enrolled()?;
    }
    Ok(())
}

fn states(audit: &Value) -> Result<Vec<&Value>> {
    let pods = audit["pods"].as_array().context("pods")?;
    Ok(pods.iter().map(|pod| &pod["state"]).collect())
}

fn shows_clients(pair: &Pair) -> Result<()> {
    for (to, from) in [
        (pair.server.v4(7000), pair.client.v4(0)),
        (pair.server.v6(7000), pair.client.v6(0)),
    ] {
        let seen = pair.client.client(&format!("connect {to}"))?;
        let banner = Banner::of(&seen)?;
        let client = [banner.accept, banner.peer].map(|client| client.ip());
        ensure!(client == [from.ip(); 2], "{from} was shown as {banner:?}");
        ensure!(seen["getpeername"] == to.to_string(), "{seen}");
    }
    Ok(())
}

#[test]
fn core_an_agent_below_the_pods_cgroup() -> Result<()> {
    carries(false)
}

#[test]
fn core_an_agent_in_a_cgroup_namespace_of_its_own() -> Result<()> {
    carries(true)
}

/// The agent's own program sits on its container's cgroup, not on the whole machine.
#[test]
fn it_finds_its_own_cgroup() -> Result<()> {
    let pair = pair(true)?;
    let own = pair.a.pods_cgroup().join("agent-1/container");
    let shown = std::process::Command::new("bpftool")
        .args(["-j", "cgroup", "show"])
        .arg(&own)
        .output()?;
    let shown: Value = serde_json::from_slice(&shown.stdout)?;
    let names: Vec<_> = shown
        .as_array()
        .with_context(|| format!("{shown}"))?
        .iter()
        .map(|program| program["name"].clone())
        .collect();
    ensure!(names == ["isthmus_clients"], "{shown}");
    Ok(())
}

/// An upgrade: the new agent in another pod takes over from the old, which drains. No new
/// connection fails, and clients are shown throughout.
#[test]
fn an_agent_in_another_pod_takes_over() -> Result<()> {
    let pair = pair(true)?;
    let _servers = (
        pair.server.serve("serve banner blue --listen [::]:7000")?,
        pair.server.serve("serve echo")?,
    );
    let flood = Flood::start(&pair.client, 4, &[(pair.server.v4(7000), "blue")])?;
    for node in [&pair.a, &pair.b] {
        flood.wait_right()?;
        node.put_agents_in_pod("agent-2", true)?;
        node.take_over()?;
        pair.wait_enrolled()?;
        shows_clients(&pair)?;
        node.signal_oldest(Signal::SIGTERM)?;
        let status = node.wait_oldest()?;
        ensure!(status.success(), "the old agent ended with {status}");
        flood.wait_right()?;
        shows_clients(&pair)?;
        node.wait_ready()?;
    }
    let tally = flood.stop()?;
    let lost = tally["wrong"] != json!({}) || tally["errors"] != json!({});
    ensure!(!lost, "{tally}");
    Ok(())
}
