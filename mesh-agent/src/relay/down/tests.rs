//! The queue before a socket: order, completeness, and what it keeps.

use std::io;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::task::spawn_local;

use super::Waiting;
use crate::hbone::testing::{local, tcp_pair};

/// Sizes around every limit of the queue, in an order that mixes them.
const SIZES: [usize; 12] = [
    1, 5_000, 3, 4_095, 4_096, 2, 70_000, 1, 1, 4_000, 300_000, 100,
];

#[test]
fn pieces_of_all_sizes_keep_their_order_before_a_slow_socket() {
    local(async {
        let (mut reader, socket) = tcp_pair().await;
        let mut expected = Vec::new();
        let mut waiting = Waiting::default();
        // All of it before the first write, so that most has to wait.
        for (n, size) in SIZES.iter().cycle().take(120).enumerate() {
            let piece: Bytes = (0..*size).map(|i| (i / 7 + n) as u8).collect();
            expected.extend_from_slice(&piece);
            waiting.push(piece);
        }
        let heard = spawn_local(async move {
            let mut heard = Vec::new();
            reader.read_to_end(&mut heard).await.unwrap();
            heard
        });
        let mut written = 0;
        while !waiting.is_empty() {
            socket.writable().await.unwrap();
            match waiting.write_to(&socket) {
                Ok(count) => written += count,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        drop(socket);
        assert_eq!(written, expected.len());
        assert!(heard.await.unwrap() == expected, "order or content differ");
        assert_eq!(waiting.pieces.capacity(), 0, "an empty queue keeps memory");
        assert_eq!(waiting.gathered.capacity(), 0);
    });
}

#[test]
fn small_pieces_that_wait_are_gathered() {
    let mut waiting = Waiting::default();
    for _ in 0..100_000 {
        waiting.push(Bytes::from_static(b"x"));
    }
    assert!(waiting.pieces.len() <= 3, "{} pieces", waiting.pieces.len());
}
