//! The agent goes and comes: nothing leaks meanwhile, and everything flows again at once.

use anyhow::{Result, ensure};
use isthmus_tests::wait::wait_until;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::pair::Pair;

/// What is pinned is adopted: the same links, still attached, now with the new agent's programs.
#[test]
fn core_links_are_adopted() -> Result<()> {
    let pair = Pair::start()?;
    let links = |status: &Value| -> Vec<(String, String)> {
        let all = status["kernel"]["attachments"]
            .as_array()
            .into_iter()
            .flatten();
        // The one on the agent's own cgroup serves its sockets, and goes with them.
        let all = all.filter(|a| a["name"] != "isthmus_clients");
        let mut links: Vec<_> = all
            .map(|a| (a["name"].to_string(), a["link_id"].to_string()))
            .collect();
        links.sort();
        links
    };
    let before = links(&pair.a.cli("status")?);
    ensure!(before.len() >= 6, "{before:?}");
    pair.a.restart()?;
    pair.a.wait_enrolled(&pair.client)?;
    let status = pair.a.cli("status")?;
    ensure!(
        links(&status) == before,
        "the links were {before:?} and are {:?}",
        links(&status)
    );
    let attached = status["kernel"]["attachments"]
        .as_array()
        .into_iter()
        .flatten()
        .all(|a| a["attached"] == true);
    ensure!(attached, "{status}");
    Ok(())
}

/// Killed and restarted five times under load: connections fail meanwhile, none goes astray,
/// no byte is in the clear, and in the end all are fine.
#[test]
fn killed_under_load() -> Result<()> {
    let pair = Pair::start()?;
    let _server = pair.server.serve("serve banner marker-of-the-server")?;
    let (v4, v6) = (pair.server.v4(8080), pair.server.v6(8080));
    let targets = format!("--targets {v4}=marker-of-the-server,{v6}=marker-of-the-server");
    let capture = pair.mesh.capture()?;
    let mut flood = pair
        .client
        .start(&format!("flood --threads 8 --seconds 12 {targets}"))?;
    for n in 0..5 {
        let node = if n % 2 == 0 { &pair.a } else { &pair.b };
        let carried = node.access_log()?.len();
        wait_until("traffic flows", || {
            node.access_log()
                .is_ok_and(|lines| lines.len() > carried + 20)
        })?;
        node.restart()?;
    }
    pair.wait_enrolled()?;
    ensure!(flood.wait()?.success(), "{}", flood.stdout());
    let seen: Value = serde_json::from_str(&flood.stdout())?;
    ensure!(
        seen["wrong"]
            .as_object()
            .is_some_and(serde_json::Map::is_empty),
        "some went astray: {seen}"
    );
    ensure!(seen["right"].as_u64() > Some(100), "{seen}");
    let after = pair
        .client
        .client(&format!("flood --threads 8 --connections 1000 {targets}"))?;
    ensure!(after["right"] == 1000, "after the restarts: {after}");
    let recording = capture.stop()?;
    ensure!(
        !recording.contains(b"marker-of-the-server"),
        "plaintext was on the bridge"
    );
    ensure!(
        recording.beside(15008).is_empty(),
        "beside the tunnel: {:?}",
        recording.beside(15008)
    );
    Ok(())
}

/// The new agent starts beside the old one, takes over, and the old one drains: no connection
/// of a steady stream is lost.
#[test]
fn taken_over_without_a_loss() -> Result<()> {
    let pair = Pair::start()?;
    let _server = pair.server.serve("serve banner blue")?;
    let mut flood = pair.client.start(&format!(
        "flood --threads 4 --seconds 10 --targets {}=blue",
        pair.server.v4(8080)
    ))?;
    for node in [&pair.a, &pair.b] {
        let carried = node.access_log()?.len();
        wait_until("traffic flows", || {
            node.access_log()
                .is_ok_and(|lines| lines.len() > carried + 20)
        })?;
        let old = node.pid()?;
        node.launch()?;
        wait_until("the new agent answers and has enrolled its pod", || {
            node.cli("status")
                .is_ok_and(|status| status["pid"] != old && status["ready"] == true)
                && node.cli("workloads").is_ok_and(|all| {
                    all.as_array()
                        .is_some_and(|all| all.iter().any(|w| w["state"] == "enrolled"))
                })
        })?;
        node.signal_oldest(Signal::SIGTERM)?;
        let status = node.wait_oldest()?;
        ensure!(status.success(), "the old agent ended with {status}");
    }
    ensure!(flood.wait()?.success(), "{}", flood.stdout());
    let seen: Value = serde_json::from_str(&flood.stdout())?;
    let lost = [&seen["wrong"], &seen["errors"]]
        .iter()
        .any(|map| map.as_object().is_none_or(|map| !map.is_empty()));
    ensure!(!lost && seen["right"].as_u64() > Some(100), "{seen}");
    Ok(())
}

/// SIGTERM lets running connections finish, and the agent then ends by itself.
#[test]
fn sigterm_drains() -> Result<()> {
    let pair = Pair::start()?;
    let server = pair.server.serve("serve transfer")?;
    let mut client = pair.client.start(&format!(
        "transfer {} --bytes {}",
        pair.server.v4(8080),
        64 << 20
    ))?;
    server.wait_line(|line| line.starts_with("accepted"))?;
    client.signal(Signal::SIGSTOP)?;
    pair.a.signal_oldest(Signal::SIGTERM)?;
    wait_until("the agent is not ready any more", || {
        !pair
            .a
            .http("/readyz")
            .is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    })?;
    client.signal(Signal::SIGCONT)?;
    ensure!(client.wait()?.success(), "the connection did not survive");
    let seen: Value = serde_json::from_str(&client.stdout())?;
    ensure!(seen["equal"] == true, "{seen}");
    let status = pair.a.wait_oldest()?;
    ensure!(status.success(), "the agent ended with {status}");
    // Gone, and still nothing gets out.
    let seen = pair
        .client
        .client(&format!("connect {}", pair.server.v4(8080)))?;
    ensure!(seen["connected"] == false, "{seen}");
    Ok(())
}
