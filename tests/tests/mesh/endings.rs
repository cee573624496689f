//! How connections end while one end does not read, and what others notice of it.

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Mtls, Node};
use isthmus_tests::process::Process;
use isthmus_tests::wait::{patience, until, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::bulk::resident;
use crate::pair::Pair;

const MIB: u64 = 1 << 20;

/// Sixteen connections whose readers have stopped, eight each way, on the tunnels that
/// everybody shares: the senders are held back, both agents hold little, neighbours move
/// megabytes past them, and whoever reads on gets every byte.
#[test]
fn stalled_streams_stall_nobody_else() -> Result<()> {
    const EACH: u64 = 32 * MIB;
    let pair = strict()?;
    let _transfer = pair.server.serve("serve transfer --listen [::]:81")?;
    let _source = pair
        .server
        .serve(&format!("serve source {EACH} --listen [::]:82"))?;
    // One first, so that what is measured is not what every agent needs.
    neighbour(&pair)?;
    let before = [resident(&pair.a)?, resident(&pair.b)?];
    let mut sinks = Vec::new();
    let (mut uploads, mut downloads) = (Vec::new(), Vec::new());
    for n in 0..8 {
        let sink = pair
            .server
            .serve(&format!("serve sink --stall --listen [::]:{}", 9000 + n))?;
        uploads.push(pair.client.start(&format!(
            "upload {} --bytes {EACH}",
            pair.server.v4(9000 + n)
        ))?);
        sink.wait_line(|line| line.starts_with("accepted"))?;
        sinks.push(sink);
        let download = pair.client.start(&format!(
            "download {} --bytes {EACH} --stall",
            pair.server.v4(82)
        ))?;
        download.wait_line(|line| line == "stalled")?;
        downloads.push(download);
    }
    let held = settled(&pair.a)?;
    ensure!(
        held.iter().all(|bytes| *bytes < EACH) && held.len() == 16,
        "nobody was held back: {held:?}"
    );
    for _ in 0..4 {
        neighbour(&pair)?;
    }
    for (node, before) in [&pair.a, &pair.b].into_iter().zip(before) {
        let after = resident(node)?;
        ensure!(
            after < before + 16 * 6 * MIB,
            "{} held {before} bytes, and {after} with sixteen stalled connections",
            node.name()
        );
    }
    for stalled in sinks.iter().chain(&downloads) {
        stalled.signal(Signal::SIGUSR1)?;
    }
    for client in uploads.iter_mut().chain(&mut downloads) {
        client.wait()?;
        let seen = last_object(client)?;
        ensure!(seen["equal"] == true, "{seen}");
    }
    Ok(())
}

/// A transfer big enough to need window after window.
fn neighbour(pair: &Pair) -> Result<()> {
    let seen = pair.client.client(&format!(
        "transfer {} --bytes {}",
        pair.server.v4(81),
        4 * MIB
    ))?;
    ensure!(seen["equal"] == true, "{seen}");
    Ok(())
}

/// The server resets while the client is stuck in a write, whose error it is then.
#[test]
fn server_resets_a_blocked_sender() -> Result<()> {
    let pair = strict()?;
    let sink = pair.server.serve("serve sink --stall --listen [::]:81")?;
    for to in [pair.server.v4(81), pair.server.v6(81)] {
        let mut upload = pair
            .client
            .start(&format!("upload {to} --bytes {}", 64 * MIB))?;
        blocked(&pair)?;
        sink.signal(Signal::SIGUSR2)?;
        upload.wait()?;
        let seen = last_object(&upload)?;
        ensure!(seen["errno"] == "ECONNRESET", "{seen}");
        ended(&pair, &to.to_string(), "PEER_RESET", "APP_RESET")?;
    }
    Ok(())
}

/// The client resets while what it sent waits everywhere on the way: the server reads a part,
/// and then the reset, not an end.
#[test]
fn blocked_sender_resets() -> Result<()> {
    let pair = strict()?;
    let sink = pair.server.serve("serve sink --stall --listen [::]:81")?;
    for (n, to) in [pair.server.v4(81), pair.server.v6(81)]
        .into_iter()
        .enumerate()
    {
        let mut upload = pair
            .client
            .start(&format!("upload {to} --bytes {}", 64 * MIB))?;
        blocked(&pair)?;
        upload.signal(Signal::SIGUSR2)?;
        upload.wait()?;
        ended(&pair, &to.to_string(), "APP_RESET", "PEER_RESET")?;
        sink.signal(Signal::SIGUSR1)?;
        wait_until("the server has read the reset", || {
            sink.stdout().matches("error ECONNRESET").count() == n + 1
        })
        .with_context(|| sink.stdout())?;
    }
    Ok(())
}

/// A client that does not read resets: the server, stuck in a write, learns of it.
#[test]
fn blocked_receiver_resets() -> Result<()> {
    let pair = strict()?;
    let source = pair
        .server
        .serve(&format!("serve source {} --listen [::]:81", 64 * MIB))?;
    for (n, from) in [pair.server.v4(81), pair.server.v6(81)]
        .into_iter()
        .enumerate()
    {
        let mut download = pair
            .client
            .start(&format!("download {from} --bytes {} --stall", 64 * MIB))?;
        download.wait_line(|line| line == "stalled")?;
        blocked(&pair)?;
        download.signal(Signal::SIGUSR2)?;
        download.wait()?;
        wait_until("the server was told", || {
            source.stdout().matches("error ECONNRESET").count() == n + 1
        })
        .with_context(|| source.stdout())?;
        ended(&pair, &from.to_string(), "APP_RESET", "PEER_RESET")?;
    }
    Ok(())
}

/// Whatever the way a connection ends, nothing of it crosses the network in the clear.
#[test]
fn no_ending_shows_a_marker() -> Result<()> {
    let pair = strict()?;
    let _reset = pair.server.serve("serve reset --listen [::]:81")?;
    let _first = pair.server.serve("serve end-first --listen [::]:82")?;
    let _hold = pair.server.serve("serve hold --listen [::]:83")?;
    let capture = pair.mesh.capture()?;
    for (port, flags) in [
        (81, "--to-end"),
        (82, "--send-late marker-late"),
        (83, "--no-read --reset"),
        (83, "--no-read --half-close"),
        (84, "--to-end"),
    ] {
        for to in [pair.server.v4(port), pair.server.v6(port)] {
            pair.client
                .client(&format!("connect {to} --send marker-Q7x {flags}"))?;
        }
    }
    let recording = capture.stop()?;
    for marker in [&b"marker-Q7x"[..], b"marker-late", b"first and last"] {
        ensure!(
            !recording.contains(marker),
            "{} was seen in the clear",
            String::from_utf8_lossy(marker)
        );
    }
    crate::pair::ensure_only_tunnels(&recording, &pair.server)
}

fn strict() -> Result<Pair> {
    let pair = Pair::prepare()?;
    pair.mesh.mtls(Mtls::Strict)?;
    pair.start_agents()?;
    Ok(pair)
}

/// Waits until the one connection carries nothing more.
fn blocked(pair: &Pair) -> Result<()> {
    let held = settled(&pair.a)?;
    ensure!(
        held.len() == 1 && (1..64 * MIB).contains(&held[0]),
        "the sender is not blocked: {held:?}"
    );
    Ok(())
}

/// Both agents have told how it ended, and hold nothing of it any more.
fn ended(pair: &Pair, to: &str, at_client: &str, at_server: &str) -> Result<()> {
    for (node, direction, reason) in [
        (&pair.a, "outbound", at_client),
        (&pair.b, "inbound", at_server),
    ] {
        node.wait_access(&format!("{direction} {reason} to {to}"), |line| {
            line["direction"] == direction && line["reason"] == reason && line["dst"] == to
        })?;
        wait_until("no connection is left", || {
            node.cli("connections")
                .is_ok_and(|all| all.as_array().is_some_and(Vec::is_empty))
        })?;
    }
    Ok(())
}

/// The bytes that each live connection has carried, once they grow no more. There is no event
/// for that nothing happens: it is taken to be so after twenty looks that saw the same.
fn settled(node: &Node) -> Result<Vec<u64>> {
    let mut last: (Vec<u64>, u32) = (Vec::new(), 0);
    let mut look = || -> Result<Option<Vec<u64>>> {
        let all = node.cli("connections")?;
        let now: Vec<_> = all
            .as_array()
            .context("`connections -o json` prints a list")?
            .iter()
            .map(|c| {
                let bytes = |key: &str| c[key].as_u64().unwrap_or_default();
                bytes("bytes_sent") + bytes("bytes_received")
            })
            .collect();
        let same = now == last.0 && now.iter().any(|bytes| *bytes > 0);
        last = (now, if same { last.1 + 1 } else { 0 });
        Ok((last.1 >= 20).then(|| last.0.clone()))
    };
    until(
        "the bytes carried no longer grow",
        patience(60),
        &mut look,
        String::new,
    )
}

/// The JSON object that a client printed at its end.
fn last_object(client: &Process) -> Result<Value> {
    let text = client.stdout();
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("it said: {text}"))
}
