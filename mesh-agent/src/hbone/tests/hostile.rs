//! Clients that break or bend the rules, by the byte. Each costs bounded
//! memory and ends in a refusal.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::hbone::testing::{Served, local, paused, pipe, serve};
use crate::hbone::{Incoming, TunnelError, TunnelSettings};

/// The client's preface and an empty SETTINGS.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = len[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A CONNECT to 10.0.0.2:80, in HPACK without tables.
fn connect(stream: u32) -> Vec<u8> {
    let payload = b"\x02\x07CONNECT\x01\x0b10.0.0.2:80";
    frame(HEADERS, END_HEADERS, stream, payload)
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// A served tunnel whose client has sent the preface, and that client's
/// writing half; what the server sends is thrown away.
async fn attacked(settings: &TunnelSettings) -> (Served, tokio::io::WriteHalf<DuplexStream>) {
    let (near, far) = pipe();
    let served = serve(far, settings);
    let (mut read, mut write) = tokio::io::split(near);
    spawn_local(async move {
        let mut buffer = [0; 4096];
        while read.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    });
    write.write_all(PREFACE).await.unwrap();
    (served, write)
}

/// Writes `frames` until the server hangs up; returns how many it took.
async fn pour(
    write: &mut tokio::io::WriteHalf<DuplexStream>,
    frames: impl Iterator<Item = Vec<u8>>,
) -> usize {
    let mut taken = 0;
    for frame in frames {
        if write.write_all(&frame).await.is_err() {
            break;
        }
        taken += 1;
    }
    taken
}

fn assert_protocol_error(end: Result<(), TunnelError>) {
    assert!(matches!(end, Err(TunnelError::Protocol(_))), "{end:?}");
}

#[test]
fn garbage_is_not_a_preface() {
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: pod\r\n\r\n"[..],
        &[
            0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ],
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ] {
        local(async {
            let (mut near, far) = pipe();
            let served = serve(far, &TunnelSettings::default());
            near.write_all(garbage).await.unwrap();
            assert_protocol_error(served.end.await.unwrap());
        });
    }
}

#[test]
fn garbage_after_the_preface_ends_the_tunnel() {
    for garbage in [
        // A frame longer than we allow.
        vec![0xff, 0xff, 0xff, HEADERS, 0, 0, 0, 0, 1],
        // HEADERS on stream 0, on an even stream, and with broken HPACK.
        frame(HEADERS, END_HEADERS, 0, b""),
        frame(HEADERS, END_HEADERS, 2, b"\x02\x07CONNECT"),
        frame(HEADERS, END_HEADERS, 1, &[0xff; 32]),
        // CONTINUATION of nothing, and a frame where it had to come.
        frame(CONTINUATION, END_HEADERS, 1, b""),
        [frame(HEADERS, 0, 1, b""), frame(PING, 0, 0, &[0; 8])].concat(),
        frame(SETTINGS, 0, 0, &[0; 5]),
        frame(RST_STREAM, 0, 7, &[0; 4]),
    ] {
        local(async {
            let (served, mut write) = attacked(&TunnelSettings::default()).await;
            write.write_all(&garbage).await.unwrap();
            assert_protocol_error(served.end.await.unwrap());
        });
    }
}

#[test]
fn headers_too_large_are_answered_with_431() {
    local(async {
        let (near, far) = pipe();
        let mut served = serve(far, &TunnelSettings::default());
        let (mut sender, connection) = h2::client::handshake(near).await.unwrap();
        spawn_local(connection);
        let mut ask = |headers: usize| {
            let mut asked = http::Request::builder()
                .method(http::Method::CONNECT)
                .uri("10.0.0.2:80");
            for n in 0..headers {
                asked = asked.header(format!("x-{n}"), "v".repeat(1000));
            }
            let asked = asked.body(()).unwrap();
            sender.send_request(asked, false).unwrap().0
        };
        let answer = ask(40).await.unwrap();
        assert_eq!(answer.status(), 431);
        // The tunnel goes on, and a request within the limit is served.
        let _answer = ask(20);
        served.incoming.recv().await.unwrap().request.unwrap();
    });
}

#[test]
fn a_flood_of_continuations_ends_the_tunnel() {
    local(async {
        let (served, mut write) = attacked(&TunnelSettings::default()).await;
        write.write_all(&frame(HEADERS, 0, 1, b"")).await.unwrap();
        let part = frame(CONTINUATION, 0, 1, b"\x00\x03x-a\x03abc");
        let taken = pour(&mut write, std::iter::repeat_n(part, 100_000)).await;
        assert!(taken < 100_000, "all were taken");
        assert_protocol_error(served.end.await.unwrap());
    });
}

#[test]
fn of_ten_thousand_streams_no_more_are_taken_than_may_be() {
    paused(async {
        let settings = TunnelSettings::default();
        let (mut served, mut write) = attacked(&settings).await;
        let streams = (0..10_000).map(|n| connect(2 * n + 1));
        pour(&mut write, streams).await;
        let mut held: Vec<Incoming> = Vec::new();
        let quiet = Duration::from_secs(1);
        while let Ok(Some(incoming)) = timeout(quiet, served.incoming.recv()).await {
            held.push(incoming);
        }
        assert_eq!(held.len(), settings.max_streams as usize);
    });
}

#[test]
fn rapid_resets_end_the_tunnel() {
    local(async {
        let (mut served, mut write) = attacked(&TunnelSettings::default()).await;
        let pairs = (0..100_000).map(|n| [connect(2 * n + 1), reset(2 * n + 1)].concat());
        let writer = spawn_local(async move { pour(&mut write, pairs).await });
        let mut seen = 0;
        while served.incoming.recv().await.is_some() {
            seen += 1;
        }
        assert_protocol_error(served.end.await.unwrap());
        assert!(seen < 100_000);
        assert!(writer.await.unwrap() < 100_000);
    });
}

#[test]
fn streams_reset_while_we_connect_for_them_are_counted_still() {
    paused(async {
        let settings = TunnelSettings {
            max_streams: 4,
            ..TunnelSettings::default()
        };
        let (mut served, mut write) = attacked(&settings).await;
        let mut held = Vec::new();
        for n in 0..8 {
            write.write_all(&connect(2 * n + 1)).await.unwrap();
            held.push(served.incoming.recv().await.unwrap());
            write.write_all(&reset(2 * n + 1)).await.unwrap();
        }
        // HTTP/2 itself sees no stream open now, but eight are in the making.
        write.write_all(&connect(17)).await.unwrap();
        let ninth = timeout(Duration::from_secs(1), served.incoming.recv()).await;
        assert!(ninth.is_err(), "a ninth was taken");
        held.pop();
        write.write_all(&connect(19)).await.unwrap();
        served.incoming.recv().await.unwrap();
    });
}

#[test]
fn a_client_that_only_writes_is_not_read_for_ever() {
    for (kind, payload) in [(PING, &[0; 8][..]), (SETTINGS, &[0, 3, 0, 0, 0, 1])] {
        paused(async {
            let settings = TunnelSettings::default();
            let (near, far) = tokio::io::duplex(16 << 10);
            let served = serve(far, &settings);
            // The reading half is kept, and never read.
            let (_read, mut write) = tokio::io::split(near);
            write.write_all(PREFACE).await.unwrap();
            let flood = std::iter::repeat_n(frame(kind, 0, 0, payload), 1_000_000);
            let taken = pour(&mut write, flood).await;
            assert!(taken < 100_000, "{taken} frames were taken");
            served.end.await.unwrap().unwrap_err();
        });
    }
}
