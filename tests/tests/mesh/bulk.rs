//! Bytes in bulk and how connections end: nothing lost, nothing swapped, each end as it was meant.

use std::fs;

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::Node;
use isthmus_tests::wait::{patience, until, wait_until};
use nix::sys::signal::Signal;

use crate::pair::{Pair, ensure_reset};

const MIB: u64 = 1 << 20;

/// 1 GiB each way at once, in both families, equal by SHA-256.
#[test]
fn a_gibibyte_each_way() -> Result<()> {
    let pair = Pair::start()?;
    let _server = pair.server.serve("serve transfer")?;
    for to in [pair.server.v4(8080), pair.server.v6(8080)] {
        let seen = pair
            .client
            .client(&format!("transfer {to} --bytes {}", 1024 * MIB))?;
        ensure!(
            seen["equal"] == true && seen["sent"] == 1024 * MIB,
            "{seen}"
        );
    }
    let line = pair.a.wait_access("the bytes", |line| {
        line["bytes_sent"].as_u64() > Some(1024 * MIB)
    })?;
    ensure!(
        line["bytes_received"].as_u64() > Some(1024 * MIB) && line["outcome"] == "ok",
        "{line}"
    );
    Ok(())
}

/// Sizes around those of records, windows and buffers.
#[test]
fn awkward_sizes() -> Result<()> {
    let pair = Pair::start()?;
    let _server = pair.server.serve("serve transfer")?;
    for (up, down) in [
        (0, 0),
        (1, 0),
        (0, 1),
        (16_384, 16_385),
        (65_535, 65_536),
        (MIB, 1),
        (3, 2 * MIB + 7),
    ] {
        let seen = pair.client.client(&format!(
            "transfer {} --bytes {up} --down {down}",
            pair.server.v4(8080)
        ))?;
        ensure!(seen["equal"] == true, "{up} up, {down} down: {seen}");
    }
    Ok(())
}

/// Many transfers share tunnels without harm to each other.
#[test]
fn transfers_side_by_side() -> Result<()> {
    let pair = Pair::start()?;
    let _server = pair.server.serve("serve transfer")?;
    let work = |n: u64| {
        pair.client.client(&format!(
            "transfer {} --bytes {}",
            pair.server.v4(8080),
            n * MIB
        ))
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=12).map(|n| scope.spawn(move || work(n))).collect();
        threads.into_iter().try_for_each(|thread| {
            let seen = thread.join().expect("no panic")?;
            ensure!(seen["equal"] == true, "{seen}");
            Ok(())
        })
    })
}

/// The client ends first and still hears; the server ends first and still hears.
#[test]
fn core_half_close_both_ways() -> Result<()> {
    let pair = Pair::start()?;
    let _sink = pair.server.serve("serve sink --listen [::]:81")?;
    let end_first = pair.server.serve("serve end-first --listen [::]:82")?;
    for (sink, first) in [
        (pair.server.v4(81), pair.server.v4(82)),
        (pair.server.v6(81), pair.server.v6(82)),
    ] {
        let seen = pair.client.client(&format!(
            "connect {sink} --send twelve-bytes --half-close --to-end"
        ))?;
        let read = seen["read"].as_str().unwrap_or_default();
        ensure!(read.starts_with("13 ") && seen["ended"] == true, "{seen}");
        let seen = pair
            .client
            .client(&format!("connect {first} --send early --send-late late"))?;
        ensure!(
            seen["read"] == "first and last\n" && seen["errno"].is_null(),
            "{seen}"
        );
        end_first
            .wait_line(|line| line == "came early")
            .context("the first line")?;
    }
    wait_until("the server got what came after its own end", || {
        end_first.stdout().matches("late").count() == 2
    })
}

/// A reset at one end is a reset at the other, not an orderly end.
#[test]
fn core_resets_both_ways() -> Result<()> {
    let pair = Pair::start()?;
    let outsider = pair.mesh.outsider("outsider")?;
    let _by_server = pair.server.serve("serve reset --listen [::]:81")?;
    let echo = pair.server.serve("serve echo --listen [::]:82")?;
    let outside_echo = outsider.serve("serve echo --listen [::]:82")?;
    let _outside_reset = outsider.serve("serve reset --listen [::]:81")?;
    for (by_server, by_client, server) in [
        (pair.server.v4(81), pair.server.v4(82), &echo),
        (outsider.v4(81), outsider.v4(82), &outside_echo),
    ] {
        let seen = pair
            .client
            .client(&format!("connect {by_server} --send now --to-end"))?;
        ensure!(
            seen["errno"] == "ECONNRESET",
            "the server reset {by_server}: {seen}"
        );
        pair.client
            .client(&format!("connect {by_client} --send hello --reset"))?;
        server
            .wait_line(|line| line == "error ECONNRESET")
            .with_context(|| format!("the client reset {by_client}"))?;
    }
    for node in [&pair.a, &pair.b] {
        node.wait_access("a reset by the application or its peer", |line| {
            ["APP_RESET", "PEER_RESET"]
                .iter()
                .any(|reason| line["reason"] == *reason)
        })?;
    }
    Ok(())
}

/// An application that dies with unread data is a reset for its peer.
#[test]
fn a_killed_application() -> Result<()> {
    let pair = Pair::start()?;
    let mut server = pair.server.serve("serve hold")?;
    let mut client = pair
        .client
        .start(&format!("connect {} --send hello", pair.server.v4(8080)))?;
    wait_until("the server has unread data", || {
        let all = pair.b.cli("connections").unwrap_or_default();
        all.as_array()
            .is_some_and(|all| all.iter().any(|c| c["bytes_received"] == 6))
    })?;
    server.signal(Signal::SIGKILL)?;
    server.wait()?;
    client.wait()?;
    ensure_reset(&serde_json::from_str(&client.stdout())?)
}

/// A peer that stops reading holds back its own sender, costs bounded memory, stalls nobody
/// else on the tunnel, and loses nothing when it goes on.
#[test]
fn a_peer_that_stops_reading() -> Result<()> {
    let pair = Pair::start()?;
    let server = pair.server.serve("serve transfer --listen [::]:81")?;
    let _echo = pair.server.serve("serve echo --listen [::]:82")?;
    // One of each first, so that what is measured is not what every connection costs.
    pair.client
        .client(&format!("transfer {} --bytes {MIB}", pair.server.v4(81)))?;
    let before = [resident(&pair.a)?, resident(&pair.b)?];
    let mut client = pair.client.start(&format!(
        "transfer {} --bytes {}",
        pair.server.v4(81),
        512 * MIB
    ))?;
    until(
        "both connections were accepted",
        patience(30),
        || Ok((server.stdout().matches("accepted").count() == 2).then_some(())),
        || server.stdout(),
    )?;
    server.signal(Signal::SIGSTOP)?;
    client.signal(Signal::SIGSTOP)?;
    // Both have stopped reading: what the agents hold of either direction stays as it is.
    let after = [settled(&pair.a)?, settled(&pair.b)?];
    for n in 0..20 {
        let seen = pair.client.client(&format!(
            "connect {} --send neighbour-{n}",
            pair.server.v4(82)
        ))?;
        ensure!(seen["read"] == format!("neighbour-{n}\n"), "{seen}");
    }
    for (before, after) in before.into_iter().zip(after) {
        ensure!(
            after < before + 64 * MIB,
            "the agents held {before} bytes, and {after} with one stalled connection"
        );
    }
    server.signal(Signal::SIGCONT)?;
    client.signal(Signal::SIGCONT)?;
    ensure!(client.wait()?.success(), "{}", client.stdout());
    let seen: serde_json::Value = serde_json::from_str(&client.stdout())?;
    ensure!(seen["equal"] == true, "{seen}");
    Ok(())
}

/// The agent's resident memory in bytes.
pub(crate) fn resident(node: &Node) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid()?))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// The resident memory once the bytes carried no longer grow.
fn settled(node: &Node) -> Result<u64> {
    let mut last = (serde_json::Value::Null, 0);
    until(
        "the bytes carried no longer grow",
        patience(30),
        || {
            let all = node.cli("connections")?;
            let bytes: Vec<_> = all
                .as_array()
                .into_iter()
                .flatten()
                .map(|c| (c["bytes_sent"].clone(), c["bytes_received"].clone()))
                .collect();
            let now = serde_json::json!(bytes);
            last = if now == last.0 {
                (now, last.1 + 1)
            } else {
                (now, 0)
            };
            Ok((last.1 >= 20).then_some(()))
        },
        String::new,
    )?;
    resident(node)
}
