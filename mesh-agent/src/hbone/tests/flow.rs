//! Flow control: what waits, for whom, and how much of it.

use std::time::Duration;

use bytes::Bytes;
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::hbone::testing::{client, local, paused, pipe, read_all, request, stream, tunnel};
use crate::hbone::{TunnelSettings, TunnelStream, TunnelWrite, server};

/// Sends until nothing more is taken and returns how much was. Under a paused
/// clock the time runs out only when neither end has anything left to do.
pub(super) async fn fill(write: &mut TunnelWrite, piece: usize) -> usize {
    let data = Bytes::from(vec![7; piece]);
    let mut sent = 0;
    loop {
        match timeout(Duration::from_millis(1), write.ready(piece)).await {
            Ok(credit) => {
                let credit = credit.unwrap();
                let len = credit.len();
                write.send(credit, data.slice(..len)).unwrap();
                sent += len;
            }
            Err(_) => return sent,
        }
    }
}

#[test]
fn a_peer_that_does_not_read_holds_a_window_and_a_buffer_at_most() {
    paused(async {
        let settings = TunnelSettings::default();
        let (client, mut served) = tunnel(&settings).await;
        let (near, far) = stream(&client, &mut served).await;
        let (_near_read, mut write) = near.split();
        let sent = fill(&mut write, 64 << 10).await;
        let window = settings.stream_window as usize;
        assert!(sent >= window, "{sent} bytes do not fill the window");
        assert!(sent <= window + settings.send_buffer, "{sent} bytes wait");
        // Nothing of it is lost once the peer reads.
        let (mut read, _far_write) = far.split();
        let reader = spawn_local(async move { read_all(&mut read).await.len() });
        write.finish().unwrap();
        assert_eq!(reader.await.unwrap(), sent);
    });
}

#[test]
fn small_pieces_cannot_pile_up_before_a_stuck_socket() {
    paused(async {
        let (near, far) = tokio::io::duplex(4 << 10);
        let settings = TunnelSettings::default();
        let (client, server) = tokio::join!(client(near, &settings), server::serve(far, &settings));
        let mut server = server.unwrap();
        let asked = request();
        let mut open = std::pin::pin!(client.open(&asked));
        let mut far = None;
        let near = loop {
            tokio::select! {
                near = &mut open => break near.unwrap(),
                incoming = server.accept() => far = incoming.map(|one| one.unwrap().accept()),
            }
        };
        // From here on nobody carries the server, so nobody reads the socket.
        let (_read, mut write) = near.split();
        let sent = fill(&mut write, 1).await;
        // What is beyond the pieces in flight is in HTTP/2's write buffer and
        // in the pipe, ten bytes a piece.
        assert!(sent < 4_000, "{sent} pieces of one byte wait");
        drop((far, server));
    });
}

#[test]
fn stalled_streams_do_not_stall_their_neighbour() {
    local(async {
        let settings = TunnelSettings::default();
        let (client, mut served) = tunnel(&settings).await;
        let mut stalled: Vec<TunnelStream> = Vec::new();
        let mut stuck = Vec::new();
        for _ in 0..settings.max_streams - 1 {
            let (near, far) = stream(&client, &mut served).await;
            stalled.push(far);
            let (read, mut write) = near.split();
            // More than the window: it gets stuck half-way, for good.
            stuck.push(spawn_local(async move {
                let _read = read;
                write.write(Bytes::from(vec![1; 2 << 20])).await
            }));
        }
        let (near, far) = stream(&client, &mut served).await;
        let ((_near_read, mut write), (mut read, _far_write)) = (near.split(), far.split());
        let sender = spawn_local(async move {
            for _ in 0..32 {
                let data = Bytes::from(vec![2; 256 << 10]);
                write.write(data).await.unwrap();
            }
            write.finish().unwrap();
        });
        assert_eq!(read_all(&mut read).await.len(), 8 << 20);
        sender.await.unwrap();
        assert!(stuck.iter().all(|writer| !writer.is_finished()));
    });
}

#[test]
fn no_more_streams_than_allowed() {
    paused(async {
        let settings = TunnelSettings {
            max_streams: 2,
            ..TunnelSettings::default()
        };
        let (client, mut served) = tunnel(&settings).await;
        let first = stream(&client, &mut served).await;
        let _second = stream(&client, &mut served).await;
        assert!(!client.is_usable() && client.is_alive());
        let third = client.open(&request()).await.unwrap_err();
        assert_eq!(third, crate::hbone::OpenError::Exhausted(2));
        drop(first);
        let _third = stream(&client, &mut served).await;
    });
}

#[test]
fn the_peers_own_limit_of_streams_is_kept() {
    local(async {
        let few = TunnelSettings {
            max_streams: 1,
            ..TunnelSettings::default()
        };
        let (near, far) = pipe();
        let mut served = crate::hbone::testing::serve(far, &few);
        let client = client(near, &TunnelSettings::default()).await;
        // With the answer to the first, the peer's SETTINGS have come too.
        let _first = stream(&client, &mut served).await;
        assert!(!client.is_usable());
    });
}

#[test]
fn megabytes_cross_unchanged_both_ways_at_once() {
    local(async {
        let (client, mut served) = tunnel(&TunnelSettings::default()).await;
        let (near, far) = stream(&client, &mut served).await;
        let mut ends = Vec::new();
        for (side, stream) in [near, far].into_iter().enumerate() {
            let (mut read, mut write) = stream.split();
            ends.push(spawn_local(async move {
                for n in 0..32_u8 {
                    write.write(block(side, n)).await.unwrap();
                }
                write.finish().unwrap();
            }));
            ends.push(spawn_local(async move {
                let all = read_all(&mut read).await;
                assert_eq!(all.len(), 32 << 20);
                for (n, part) in (0..32_u8).zip(all.chunks(1 << 20)) {
                    assert!(part == block(1 - side, n), "block {n} differs");
                }
            }));
        }
        for end in ends {
            end.await.unwrap();
        }
    });
}

fn block(side: usize, n: u8) -> Bytes {
    let seed = n.wrapping_mul(7).wrapping_add(side as u8 * 101);
    (0..1_usize << 20)
        .map(|i| seed.wrapping_add((i % 251) as u8))
        .collect()
}
