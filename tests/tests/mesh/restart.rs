//! The agent goes and comes: nothing leaks meanwhile, and everything flows again at once.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use isthmus_tests::capture::Capture;
use isthmus_tests::mesh::Node;
use isthmus_tests::traffic::{Flood, Talk};
use isthmus_tests::wait::wait_until;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::asked::{Crossing, crossing};
use crate::pair::Pair;

/// What is pinned is adopted: the same links, still attached, now with the new agent's programs.
#[test]
fn core_pinned_links_are_adopted() -> Result<()> {
    let pair = Pair::start()?;
    let (links, programs) = (pins(&pair.a)?, programs(&pair.a)?);
    ensure!(
        links
            .keys()
            .any(|path| path.to_string_lossy().contains("lookup")),
        "no link to the pod's namespace among {links:?}"
    );
    pair.a.restart()?;
    pair.a.wait_enrolled(&pair.client)?;
    ensure!(
        pins(&pair.a)? == links,
        "the pins were {links:?} and are {:?}",
        pins(&pair.a)?
    );
    let now = self::programs(&pair.a)?;
    for (name, (link, program)) in &programs {
        let (link_now, program_now) = now.get(name).context("an attachment is gone")?;
        ensure!(link == link_now, "{name}: link {link}, then {link_now}");
        ensure!(
            program != program_now,
            "{name}: still the dead agent's program {program}"
        );
    }
    Ok(())
}

/// Each pinned link with its inode: one that is removed and pinned anew has another.
fn pins(node: &Node) -> Result<BTreeMap<PathBuf, u64>> {
    fs::read_dir(node.pin_dir().join("links"))?
        .map(|entry| {
            let path = entry?.path();
            let inode = fs::metadata(&path)?.ino();
            Ok((path, inode))
        })
        .collect()
}

/// The pinned attachments by name: link id and program id.
fn programs(node: &Node) -> Result<BTreeMap<String, (Value, Value)>> {
    let status = node.cli("status")?;
    let all = status["kernel"]["attachments"]
        .as_array()
        .context("attachments")?;
    ensure!(all.iter().all(|a| a["attached"] == true), "{status}");
    // The one on the agent's own cgroup lives and dies with the agent.
    let pinned = all.iter().filter(|a| a["name"] != "isthmus_clients");
    let pinned: BTreeMap<_, _> = pinned
        .map(|a| {
            let ids = (a["link_id"].clone(), a["prog_id"].clone());
            (a["name"].to_string(), ids)
        })
        .collect();
    ensure!(pinned.len() == 7, "{status}");
    Ok(pinned)
}

/// Killed: what it carried ends, new connections are refused, nothing goes around. Started
/// again: it carries as before.
#[test]
fn core_killed_and_started_again() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.server.serve("serve echo")?;
    for node in [&pair.a, &pair.b] {
        ensure!(crossing(&pair.mesh, &pair.client, &pair.server)? == Crossing::Encrypted);
        let talk = Talk::open(&pair.client, pair.server.v6(8080))?;
        let capture = pair.mesh.capture()?;
        node.kill9()?;
        talk.end()?;
        for to in [pair.server.v4(8080), pair.server.v6(8080)] {
            let seen = pair
                .client
                .client(&format!("connect {to} --send marker-Q7x"))?;
            let errno = seen["errno"].as_str().unwrap_or_default();
            ensure!(
                ["ECONNREFUSED", "ECONNRESET"].contains(&errno),
                "{} is dead: {seen}",
                node.name()
            );
        }
        ensure_clean(capture, b"marker-Q7x")?;
        node.start()?;
        pair.wait_enrolled()?;
        ensure!(crossing(&pair.mesh, &pair.client, &pair.server)? == Crossing::Encrypted);
    }
    // Tunnels without a stream broke too. That is nobody's connection.
    let lines = pair.b.access_log()?;
    let strange: Vec<_> = lines
        .iter()
        .filter(|line| line["reason"] == "BAD_REQUEST")
        .collect();
    ensure!(strange.is_empty(), "{strange:#?}");
    Ok(())
}

fn ensure_clean(capture: Capture, marker: &[u8]) -> Result<()> {
    let recording = capture.stop()?;
    ensure!(!recording.contains(marker), "plaintext was on the bridge");
    let beside = recording.beside(15008);
    ensure!(beside.is_empty(), "bytes beside the tunnel: {beside:?}");
    let around: Vec<_> = recording
        .syns()
        .iter()
        .filter(|syn| syn.to.port() != 15008)
        .collect();
    ensure!(around.is_empty(), "SYNs around the agent: {around:?}");
    Ok(())
}

/// Killed and started again under load, either end's: connections are refused meanwhile, none
/// goes astray, no byte is in the clear, and once it is back not one fails.
#[test]
fn killed_and_started_again_under_load() -> Result<()> {
    let pair = Pair::start()?;
    let _server = pair.server.serve("serve banner marker-of-the-server")?;
    let targets = [pair.server.v4(8080), pair.server.v6(8080)];
    let targets = targets.map(|to| (to, "marker-of-the-server"));
    let capture = pair.mesh.capture()?;
    let flood = Flood::start(&pair.client, 8, &targets)?;
    for node in [&pair.a, &pair.b, &pair.a, &pair.b] {
        flood.wait_right()?;
        node.kill9()?;
        flood.wait_failed()?;
        node.start()?;
        pair.wait_enrolled()?;
        flood.wait_right()?;
    }
    let tally = flood.stop()?;
    ensure!(tally["wrong"] == json!({}), "some went astray: {tally}");
    ensure_clean(capture, b"marker-of-the-server")?;
    let text = format!(
        "flood --threads 8 --connections 1000 --targets {}=marker-of-the-server",
        pair.server.v4(8080)
    );
    let after = pair.client.client(&text)?;
    ensure!(after["right"] == 1000, "after the restarts: {after}");
    Ok(())
}

/// A new agent that cannot have a configuration says so in its own pod, and leaves the old one in
/// force: its programs, its socket, and its care for the pods. When the old one is gone it answers
/// in its place.
#[test]
fn one_that_waits_leaves_the_old_in_force() -> Result<()> {
    let pair = Pair::start()?;
    let _server = pair.server.serve("serve echo")?;
    let node = &pair.a;
    let (before, old) = (programs(node)?, node.pid()?);
    node.launch_without_api("beside")?;
    let new = node.pid()?;
    let waits = |status: &Value| {
        status["pid"] == new
            && status["starting"] == true
            && status["ready"] == false
            && status["not_ready"].to_string().contains("pods not heard")
            && status["config"]["problems"].to_string().contains("pods")
    };
    wait_until("the new agent says what it waits for", || {
        node.status_of("beside").is_ok_and(|status| waits(&status))
    })?;
    let status = node.cli("status")?;
    ensure!(status["pid"] == old && status["ready"] == true, "{status}");
    ensure!(programs(node)? == before, "{:?}", programs(node)?);
    let late = node.pod("late")?;
    node.wait_enrolled(&late)?;
    ensure!(crossing(&pair.mesh, &pair.client, &pair.server)? == Crossing::Encrypted);

    node.signal_oldest(Signal::SIGKILL)?;
    node.wait_oldest()?;
    wait_until("the new agent answers for the node", || {
        node.cli("status").is_ok_and(|status| waits(&status))
    })?;
    let workloads = node.cli_run("workloads")?;
    ensure!(
        workloads.stderr.contains("no configuration is known yet"),
        "{workloads:?}"
    );
    let status = node.terminate()?;
    ensure!(status.success(), "the new agent ended with {status}");
    node.start()?;
    pair.wait_enrolled()?;
    ensure!(crossing(&pair.mesh, &pair.client, &pair.server)? == Crossing::Encrypted);
    Ok(())
}

/// A new agent starts beside the old one and takes over, which then drains: no connection is
/// lost, neither new ones under load nor one that the old agent carries to its end.
#[test]
fn taken_over_without_a_loss() -> Result<()> {
    let pair = Pair::start()?;
    let _servers = (
        pair.server.serve("serve banner blue")?,
        pair.server.serve("serve echo --listen [::]:7000")?,
    );
    let flood = Flood::start(&pair.client, 4, &[(pair.server.v4(8080), "blue")])?;
    for node in [&pair.a, &pair.b] {
        flood.wait_right()?;
        let talk = Talk::open(&pair.client, pair.server.v6(7000))?;
        node.take_over()?;
        pair.wait_enrolled()?;
        flood.wait_right()?;
        node.signal_oldest(Signal::SIGTERM)?;
        flood.wait_right()?;
        talk.ask()?;
        talk.close()?;
        let status = node.wait_oldest()?;
        ensure!(status.success(), "the old agent ended with {status}");
        flood.wait_right()?;
        // The new agent has the admin address once the old one has left it.
        node.wait_ready()?;
    }
    let tally = flood.stop()?;
    let lost = tally["wrong"] != json!({}) || tally["errors"] != json!({});
    ensure!(!lost, "{tally}");
    Ok(())
}

/// SIGTERM: not ready any more, new connections are refused both ways, the running ones go on
/// to their end, and then so does the agent.
#[test]
fn core_sigterm_drains() -> Result<()> {
    let pair = Pair::start()?;
    let _servers = (
        pair.server.serve("serve echo")?,
        pair.client.serve("serve echo")?,
    );
    // Several, so that the agent leaves right after one's last byte.
    let talks = (0..6)
        .flat_map(|_| {
            [
                Talk::open(&pair.client, pair.server.v4(8080)),
                Talk::open(&pair.server, pair.client.v6(8080)),
            ]
        })
        .collect::<Result<Vec<_>>>()?;
    pair.a.signal_oldest(Signal::SIGTERM)?;
    wait_until("the agent says that it is shutting down", || {
        pair.a.http("/readyz").is_ok_and(|answer| {
            answer.starts_with("HTTP/1.1 503") && answer.contains("shutting down")
        })
    })?;
    wait_until("new connections are refused", || {
        pair.client
            .client(&format!("connect {} --send x", pair.server.v4(8080)))
            .is_ok_and(|seen| seen["errno"] == "ECONNREFUSED")
    })?;
    let seen = pair
        .server
        .client(&format!("connect {} --send x", pair.client.v4(8080)))?;
    ensure!(
        seen["read"] == "" && seen["errno"] == "ECONNRESET",
        "a new one towards the pod: {seen}"
    );
    talks.iter().try_for_each(Talk::ask)?;
    talks.iter().try_for_each(Talk::close)?;
    let status = pair.a.wait_oldest()?;
    ensure!(status.success(), "the agent ended with {status}");
    // Gone, and still nothing gets out.
    let seen = pair
        .client
        .client(&format!("connect {}", pair.server.v4(8080)))?;
    ensure!(seen["connected"] == false, "{seen}");
    Ok(())
}

/// A connection that outlives the time to drain is reset, and its line says why.
#[test]
fn the_time_to_drain_ends() -> Result<()> {
    let pair = Pair::start()?;
    pair.a.set_options(&["--drain-timeout", "1"]);
    pair.a.restart()?;
    let _echo = pair.server.serve("serve echo")?;
    let talk = Talk::open(&pair.client, pair.server.v4(8080))?;
    pair.a.signal_oldest(Signal::SIGTERM)?;
    let status = pair.a.wait_oldest()?;
    ensure!(status.success(), "the agent ended with {status}");
    let line = pair.a.wait_access("the connection that was cut", |line| {
        line["direction"] == "outbound" && line["outcome"] == "cut"
    })?;
    ensure!(line["reason"] == "DRAINED", "{line}");
    let end = talk.end()?;
    ensure!(end == "ECONNRESET", "the application saw {end}");
    Ok(())
}

/// An agent that is started with a pod's file broken does not take the pod for one that left:
/// its traffic stays refused, both ways, until the file is mended.
#[test]
fn core_a_broken_file_at_the_start_keeps_its_pod_guarded() -> Result<()> {
    let mut pair = Pair::start()?;
    let _servers = (
        pair.server.serve("serve echo")?,
        pair.client.serve("serve echo")?,
    );
    let outsider = pair.mesh.outsider("outsider")?;
    pair.a.kill9()?;
    pair.mesh.write("pod-default-client", "kind: [")?;
    pair.a.start()?;
    let capture = pair.mesh.capture()?;
    let problems = pair.a.cli("problems")?.to_string();
    ensure!(problems.contains("pod-default-client.yaml"), "{problems}");
    for to in [pair.server.v4(8080), outsider.v6(8080)] {
        let seen = pair
            .client
            .client(&format!("connect {to} --send marker-Q7x"))?;
        ensure!(seen["errno"] == "ECONNREFUSED", "to {to}: {seen}");
    }
    let recording = capture.stop()?;
    ensure!(recording.directions().count() == 0, "bytes left the pod");
    let seen = outsider.client(&format!("connect {} --send x", pair.client.v4(8080)))?;
    ensure!(seen["errno"] == "ECONNREFUSED", "into the pod: {seen}");

    pair.client.configure()?;
    pair.a.wait_enrolled(&pair.client)?;
    ensure!(crossing(&pair.mesh, &pair.client, &pair.server)? == Crossing::Encrypted);
    Ok(())
}

/// A pod that left by its label before the agent comes back is released: it is on its own again.
#[test]
fn core_a_pod_that_left_meanwhile_is_released() -> Result<()> {
    let mut pair = Pair::start()?;
    let _echo = pair.server.serve("serve echo")?;
    pair.a.kill9()?;
    pair.client.leave()?;
    pair.b.wait_state(&pair.client.uid(), "outside-mesh")?;
    let seen = pair
        .client
        .client(&format!("connect {}", pair.server.v4(8080)))?;
    ensure!(
        seen["connected"] == false,
        "released by nobody's hand: {seen}"
    );
    pair.a.start()?;
    ensure!(crossing(&pair.mesh, &pair.client, &pair.server)? == Crossing::Plain);
    let links = pins(&pair.a)?;
    ensure!(
        links.len() == 7,
        "a link to the namespace stayed: {links:?}"
    );
    Ok(())
}
