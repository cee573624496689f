//! Streams whose readers stall, in a tunnel to a peer with the windows of ztunnel.

use bytes::Bytes;
use tokio::task::spawn_local;

use crate::hbone::testing::{local, paused, read_all, stream, tunnel};
use crate::hbone::{TunnelSettings, TunnelStream};

/// Eight of its streams' windows are twice the connection's.
const STALLED: usize = 8;

fn ztunnel() -> TunnelSettings {
    TunnelSettings {
        stream_window: 4 << 20,
        connection_window: 16 << 20,
        ..TunnelSettings::default()
    }
}

/// Sends more than any window on the near end of a stream, whose far end does not read.
fn stall(stream: TunnelStream) {
    spawn_local(async move {
        let (_read, mut write) = stream.split();
        write.write(Bytes::from(vec![1; 64 << 20])).await
    });
}

/// Until all that can be sent was sent: the paused clock moves when nothing else does.
async fn settle() {
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
}

async fn ensure_passes(near: TunnelStream, far: TunnelStream) {
    const BYTES: usize = 8 << 20;
    let ((_near_read, mut write), (mut read, _far_write)) = (near.split(), far.split());
    let sender = spawn_local(async move {
        for _ in 0..BYTES / (256 << 10) {
            write.write(Bytes::from(vec![2; 256 << 10])).await.unwrap();
        }
        write.finish().unwrap();
    });
    assert_eq!(read_all(&mut read).await.len(), BYTES);
    sender.await.unwrap();
}

/// A client, which is the one to choose a tunnel for a new stream, has all of them open before.
#[test]
fn stream_of_a_client_passes_eight_whose_readers_stall() {
    paused(async {
        let (client, mut served) = tunnel(&ztunnel()).await;
        let ninth = stream(&client, &mut served).await;
        let mut eight = Vec::new();
        for _ in 0..STALLED {
            eight.push(stream(&client, &mut served).await);
        }
        let mut unread = Vec::new();
        for (near, far) in eight {
            stall(near);
            unread.push(far);
        }
        settle().await;
        ensure_passes(ninth.0, ninth.1).await;
    });
}

#[test]
fn stream_of_a_server_passes_eight_whose_readers_stall() {
    paused(async {
        let (client, mut served) = tunnel(&ztunnel()).await;
        let before = stream(&client, &mut served).await;
        let mut unread = Vec::new();
        for _ in 0..STALLED {
            let (near, far) = stream(&client, &mut served).await;
            stall(far);
            settle().await;
            unread.push(near);
        }
        ensure_passes(before.1, before.0).await;
        let after = stream(&client, &mut served).await;
        ensure_passes(after.1, after.0).await;
    });
}

#[test]
fn stream_alone_fills_its_whole_window() {
    paused(async {
        let settings = ztunnel();
        let (client, mut served) = tunnel(&settings).await;
        let (near, _far) = stream(&client, &mut served).await;
        let (_read, mut write) = near.split();
        let sent = super::flow::fill(&mut write, 256 << 10).await;
        assert!(sent >= settings.stream_window as usize, "{sent} bytes");
    });
}

#[test]
fn stream_is_not_slower_beside_idle_ones() {
    local(async {
        let (client, mut served) = tunnel(&ztunnel()).await;
        let mut idle = Vec::new();
        for _ in 0..90 {
            idle.push(stream(&client, &mut served).await);
        }
        let (near, far) = stream(&client, &mut served).await;
        ensure_passes(near, far).await;
    });
}
