//! Clients with a good certificate and bad intent, frame by frame: each is cut off or bounded,
//! and others are served meanwhile.

mod raw;

use anyhow::{Context, Result, ensure};
use http::StatusCode;
use isthmus_tests::mesh::Node;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use self::raw::{CONTINUATION, END_HEADERS, HEADERS, RST_STREAM, Raw, connect_block};
use crate::bulk::resident;
use crate::wire_peer::{Peer, connect};
use crate::wire_target::Target;

const MIB: u64 = 1 << 20;

/// What an agent's memory may grow by, whatever one client does. The windows of a tunnel's
/// streams are what it has promised to hold: 128 MiB received at the very most.
const BOUND: u64 = 128 * MIB;

/// A header block that does not end (CVE-2024-27316 and its kin) ends the tunnel instead.
#[test]
fn endless_continuation_is_cut_off() -> Result<()> {
    let target = Target::start()?;
    let peer = Peer::new(&target.mesh)?;
    target.ensure_serving(&peer)?;
    let before = resident(&target.node)?;
    let tls = peer.tls(&target.client, &target.server, target.tunnel_port())?;
    let sent = peer.run(async {
        let mut raw = Raw::start(tls).await?;
        raw.queue(HEADERS, 0, 1, &block(&target));
        let filler = filler(16_000);
        raw.flood(20_000, |raw, _| raw.queue(CONTINUATION, 0, 1, &filler))
            .await
    })?;
    ensure!(sent < 20_000, "all {sent} CONTINUATION frames were taken");
    ensure_bounded(&target.node, before)?;
    target.ensure_serving(&peer)
}

/// Streams opened and reset in one breath (CVE-2023-44487): the tunnel ends, and the
/// application was not dialled once for each.
#[test]
fn rapid_reset_is_cut_off() -> Result<()> {
    const STREAMS: u32 = 50_000;
    let target = Target::start()?;
    let hold = target.server.serve("serve hold --listen [::]:9090")?;
    let peer = Peer::new(&target.mesh)?;
    target.ensure_serving(&peer)?;
    let before = resident(&target.node)?;
    let tls = peer.tls(&target.client, &target.server, target.tunnel_port())?;
    let authority = target.server.v4(9090).to_string();
    let sent = peer.run(async {
        let mut raw = Raw::start(tls).await?;
        let block = connect_block(&authority);
        raw.flood(STREAMS, |raw, n| {
            let stream = 2 * n + 1;
            raw.queue(HEADERS, END_HEADERS, stream, &block);
            raw.queue(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        })
        .await
    })?;
    ensure!(sent < STREAMS, "all {sent} streams were taken");
    let dialled = hold.stdout().matches("accepted").count();
    ensure!(
        dialled < 10_000,
        "the application was dialled {dialled} times"
    );
    ensure_bounded(&target.node, before)?;
    target.ensure_serving(&peer)
}

/// More streams at once than the server's SETTINGS allow: those above are refused or end the
/// tunnel, and no more than allowed reach the application.
#[test]
fn thousands_of_streams_at_once_are_bounded() -> Result<()> {
    let target = Target::start()?;
    let hold = target.server.serve("serve hold --listen [::]:9090")?;
    let peer = Peer::new(&target.mesh)?;
    target.ensure_serving(&peer)?;
    let before = resident(&target.node)?;
    let tls = peer.tls(&target.client, &target.server, target.tunnel_port())?;
    let authority = target.server.v4(9090).to_string();
    peer.run(async {
        let mut raw = Raw::start(tls).await?;
        let block = connect_block(&authority);
        let sent = raw
            .flood(5000, |raw, n| {
                raw.queue(HEADERS, END_HEADERS, 2 * n + 1, &block);
            })
            .await?;
        ensure!(sent > 128, "the tunnel ended after {sent} streams");
        // Only while the tunnel is up does what its streams cost show.
        raw.read_answers(sent).await?;
        ensure_bounded(&target.node, before)
    })?;
    let dialled = hold.stdout().matches("accepted").count();
    ensure!(
        dialled <= 256,
        "the application was dialled {dialled} times"
    );
    ensure_bounded(&target.node, before)?;
    target.ensure_serving(&peer)
}

/// A client that asks for much and never opens its windows: what the agent holds of it is the
/// send buffers of its streams, and the servers are held back.
#[test]
fn closed_windows_hold_the_server_back() -> Result<()> {
    let target = Target::start()?;
    let _source = target
        .server
        .serve("serve source 100000000 --listen [::]:9090")?;
    let peer = Peer::new(&target.mesh)?;
    target.ensure_serving(&peer)?;
    let before = resident(&target.node)?;
    let tunnel = peer.tunnel(&target.client, &target.server, target.tunnel_port())?;
    let authority = target.server.v4(9090).to_string();
    peer.run(async {
        let mut held = Vec::new();
        for _ in 0..100 {
            let answer = tunnel.ask(connect(&authority)).await?;
            ensure!(answer.status == StatusCode::OK, "{}", answer.status);
            held.push(answer);
        }
        let mut last = 0;
        // 100 streams of 100 MB each: were they not held back, this would pass any bound.
        isthmus_tests::wait::wait_until("the servers are held back", || {
            let carried = carried(&target.node).unwrap_or_default();
            let settled = carried == last && carried > 0;
            last = carried;
            settled
        })?;
        ensure_bounded(&target.node, before)?;
        ensure!(last < 128 * MIB, "{last} bytes were taken from the servers");
        Ok(())
    })?;
    target.ensure_serving(&peer)
}

/// Handshakes that stop half-way, before TLS or after it, give their sockets back in time, and
/// block nobody meanwhile.
#[test]
fn silent_clients_are_dropped() -> Result<()> {
    const SILENT: usize = 40;
    let target = Target::start()?;
    let peer = Peer::new(&target.mesh)?;
    target.ensure_serving(&peer)?;
    let mut without_tls = Vec::new();
    let mut without_http = Vec::new();
    for _ in 0..SILENT {
        without_tls.push(crate::wire_peer::dial(
            &target.client,
            target.tunnel_port(),
        )?);
        without_http.push(peer.tls(&target.client, &target.server, target.tunnel_port())?);
    }
    target.ensure_serving(&peer)?;
    peer.run(async {
        let mut byte = [0; 1024];
        for tcp in without_tls {
            let mut tcp = TcpStream::from_std(tcp)?;
            // The first byte of a TLS record, and then nothing.
            tcp.write_all(&[22]).await?;
            while matches!(tcp.read(&mut byte).await, Ok(1..)) {}
        }
        for mut tls in without_http {
            tls.write_all(b"PRI * HT").await.ok();
            while matches!(tls.read(&mut byte).await, Ok(1..)) {}
        }
        Ok(())
    })?;
    target.wait_reason("TLS_HANDSHAKE", "did not finish within")?;
    target.wait_reason("BAD_REQUEST", "preface")?;
    target.ensure_serving(&peer)
}

fn ensure_bounded(node: &Node, before: u64) -> Result<()> {
    let after = resident(node)?;
    ensure!(
        after < before + BOUND,
        "the agent held {before} bytes before, and {after} now"
    );
    Ok(())
}

/// Bytes that the live connections of a node have taken from applications.
pub(crate) fn carried(node: &Node) -> Result<u64> {
    let all = node.cli("connections")?;
    let all = all
        .as_array()
        .context("`connections -o json` prints a list")?;
    Ok(all.iter().filter_map(|c| c["bytes_sent"].as_u64()).sum())
}

fn block(target: &Target) -> Vec<u8> {
    connect_block(&target.server.v4(8080).to_string())
}

/// Many small headers, `length` bytes of them.
fn filler(length: usize) -> Vec<u8> {
    let header = [0x00, 1, b'a', 1, b'b'];
    header.repeat(length / header.len())
}
