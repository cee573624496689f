//! Much data, at whatever pace the readers set.

use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::{JoinHandle, spawn_local};

use super::super::buffer::{LARGEST, ReadSize, SMALLEST};
use super::super::{RelayCause, RelayEnd};
use super::{chain, plain, stuck};
use crate::hbone::TunnelSettings;
use crate::hbone::testing::local;

const SIZE: usize = 64 << 20;

/// A sequence that repeats only after a prime number of bytes, so that a lost,
/// doubled or displaced block of any usual size is seen.
fn pattern(seed: u8) -> Vec<u8> {
    const PERIOD: usize = 1_000_003;
    let mut state = u32::from(seed) + 1;
    (0..PERIOD)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_be_bytes()[0]
        })
        .collect()
}

async fn send(mut to: OwnedWriteHalf, seed: u8, piece: usize) {
    let pattern = pattern(seed);
    let mut at = 0;
    while at < SIZE {
        let from = at % pattern.len();
        let len = piece.min(pattern.len() - from).min(SIZE - at);
        to.write_all(&pattern[from..from + len]).await.unwrap();
        at += len;
    }
    to.shutdown().await.unwrap();
}

async fn check(mut from: OwnedReadHalf, seed: u8) {
    let pattern = pattern(seed);
    let mut buffer = vec![0; 100_000];
    let mut at = 0;
    loop {
        let len = from.read(&mut buffer).await.unwrap();
        if len == 0 {
            break;
        }
        let mut got = &buffer[..len];
        while !got.is_empty() {
            let start = at % pattern.len();
            let len = got.len().min(pattern.len() - start);
            assert!(got[..len] == pattern[start..start + len], "near byte {at}");
            at += len;
            got = &got[len..];
        }
    }
    assert_eq!(at, SIZE);
}

fn both_ways(left: TcpStream, right: TcpStream) -> Vec<JoinHandle<()>> {
    let ((left_read, left_write), (right_read, right_write)) =
        (left.into_split(), right.into_split());
    vec![
        spawn_local(send(left_write, 1, 1 << 20)),
        spawn_local(send(right_write, 2, 4_001)),
        spawn_local(check(left_read, 2)),
        spawn_local(check(right_read, 1)),
    ]
}

fn assert_finished(end: &RelayEnd) {
    assert!(matches!(end.cause, RelayCause::Finished), "{end:?}");
}

#[test]
fn much_crosses_a_tunnel_unchanged_both_ways_at_once() {
    local(async {
        let chain = chain().await;
        for end in both_ways(chain.left, chain.right) {
            end.await.unwrap();
        }
        for side in [chain.left_side, chain.right_side] {
            assert_finished(&side.end.await.unwrap());
            assert_eq!(side.meter.sent.load(Ordering::Relaxed), SIZE as u64);
            assert_eq!(side.meter.received.load(Ordering::Relaxed), SIZE as u64);
        }
    });
}

#[test]
fn much_crosses_plain_unchanged_both_ways_at_once() {
    local(async {
        let (left, right, side) = plain().await;
        for end in both_ways(left, right) {
            end.await.unwrap();
        }
        assert_finished(&side.end.await.unwrap());
        assert_eq!(side.meter.sent.load(Ordering::Relaxed), SIZE as u64);
        assert_eq!(side.meter.received.load(Ordering::Relaxed), SIZE as u64);
    });
}

#[test]
fn a_reader_that_pauses_holds_a_window_and_a_buffer_at_most_and_loses_nothing() {
    local(async {
        let chain = chain().await;
        let settings = TunnelSettings::default();
        let bound = u64::from(settings.largest_window) + settings.send_buffer as u64;
        let (sent, taken) = (
            chain.left_side.meter.clone(),
            chain.right_side.meter.clone(),
        );
        let (read, _right_write) = chain.right.into_split();
        let (_left_read, write) = chain.left.into_split();
        let sender = spawn_local(send(write, 3, 1 << 20));
        stuck(&sent).await;
        // Data taken over by the left relay that the right one did not pass on
        // yet: all that the two agents hold.
        let sent = sent.sent.load(Ordering::Relaxed);
        let held = sent - taken.received.load(Ordering::Relaxed);
        assert!(held > 0 && held <= bound, "{held} bytes are held");
        assert!(sent < SIZE as u64, "nothing had to wait");
        check(read, 3).await;
        sender.await.unwrap();
    });
}

#[test]
fn the_read_size_follows_the_flow() {
    let mut size = ReadSize::new();
    assert_eq!(size.get(), SMALLEST);
    size.learn(100, SMALLEST);
    assert_eq!(size.get(), SMALLEST);
    for _ in 0..3 {
        size.learn(size.get(), size.get());
    }
    assert_eq!(size.get(), LARGEST);
    // Less because less was asked for, not because less was there.
    size.learn(1000, 1000);
    assert_eq!(size.get(), LARGEST);
    for _ in 0..10 {
        size.learn(1000, size.get());
    }
    assert_eq!(size.get(), SMALLEST);
}
