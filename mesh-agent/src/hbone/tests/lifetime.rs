//! How tunnels begin and end. The clock is paused: no test waits for it.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::Instant;

use crate::hbone::testing::{
    client, local, paused, pipe, read_all, request, serve, stream, tunnel,
};
use crate::hbone::{OpenError, StreamError, TunnelClient, TunnelError, TunnelSettings, server};

/// Reads and throws away: a peer that has HTTP/2's bytes but never answers.
fn swallow(mut io: tokio::io::DuplexStream) {
    spawn_local(async move {
        let mut buffer = [0; 4096];
        while io.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    });
}

#[test]
fn a_server_that_is_gone_is_noticed_by_ping() {
    paused(async {
        let settings = TunnelSettings::default();
        let (near, far) = pipe();
        swallow(far);
        let (client, driver) = TunnelClient::handshake(near, &settings).await.unwrap();
        let driver = spawn_local(driver);
        // Keeps the tunnel wanted.
        let asked = request();
        let open = client.open(&asked).await;
        assert_eq!(open.unwrap_err(), OpenError::Timeout(settings.open_timeout));
        let end = driver.await.unwrap();
        assert_eq!(
            end,
            Err(TunnelError::KeepaliveTimeout(settings.ping_timeout))
        );
        assert!(!client.is_alive());
    });
}

#[test]
fn a_client_that_is_gone_is_noticed_by_ping() {
    paused(async {
        let settings = TunnelSettings::default();
        let (mut near, far) = pipe();
        let served = serve(far, &settings);
        near.write_all(super::hostile::PREFACE).await.unwrap();
        let end = served.end.await.unwrap();
        assert_eq!(
            end,
            Err(TunnelError::KeepaliveTimeout(settings.ping_timeout))
        );
    });
}

#[test]
fn a_client_that_does_not_begin_is_given_up() {
    paused(async {
        let settings = TunnelSettings::default();
        let (mut near, far) = pipe();
        let served = serve(far, &settings);
        near.write_all(&super::hostile::PREFACE[..20])
            .await
            .unwrap();
        let end = served.end.await.unwrap();
        let limit = settings.handshake_timeout;
        assert_eq!(end, Err(TunnelError::HandshakeTimeout(limit)));
    });
}

#[test]
fn a_served_tunnel_without_streams_ends_in_order() {
    paused(async {
        let settings = TunnelSettings::default();
        let (client, mut served) = tunnel(&settings).await;
        let (near, far) = stream(&client, &mut served).await;
        let began = Instant::now();
        let busy = 3 * settings.serve_idle;
        tokio::time::sleep(busy).await;
        assert!(client.is_alive(), "a tunnel with a stream was ended");
        drop((near, far));
        assert_eq!(served.end.await.unwrap(), Ok(()));
        assert!(began.elapsed() >= busy + settings.serve_idle);
        assert!(!client.is_alive());
    });
}

#[test]
fn draining_lets_streams_finish_and_takes_no_new_ones() {
    local(async {
        let (client, mut served) = tunnel(&TunnelSettings::default()).await;
        let (near, far) = stream(&client, &mut served).await;
        served.drain.send(()).unwrap();
        let asked = request();
        let refused = loop {
            // Until the GOAWAY arrives, a request may still slip through; the
            // server takes that one too.
            tokio::select! {
                answer = client.open(&asked) => match answer {
                    Ok(_) => {}
                    Err(error) => break error,
                },
                Some(incoming) = served.incoming.recv() => drop(incoming.accept()),
            }
        };
        let unprocessed = matches!(
            refused,
            OpenError::TunnelLost {
                unprocessed: true,
                ..
            }
        );
        assert!(unprocessed, "{refused:?}");
        let ((mut near_read, mut near), (mut far_read, mut far)) = (near.split(), far.split());
        near.write(Bytes::from_static(b"after")).await.unwrap();
        near.finish().unwrap();
        assert_eq!(read_all(&mut far_read).await, "after");
        far.finish().unwrap();
        assert_eq!(read_all(&mut near_read).await, "");
        drop((near_read, near, far_read, far));
        assert_eq!(served.end.await.unwrap(), Ok(()));
    });
}

#[test]
fn drain_at_takes_the_earlier_time_and_lets_streams_go_on() {
    paused(async {
        let settings = TunnelSettings::default();
        let (near, far) = pipe();
        let (client, server) = tokio::join!(client(near, &settings), server::serve(far, &settings));
        let mut server = server.unwrap();
        let began = Instant::now();
        let due = Duration::from_secs(3600);
        for time in [2 * due, due, 3 * due] {
            server.drain_at(began + time);
        }
        let (found, mut incoming) = mpsc::unbounded_channel();
        spawn_local(async move {
            while let Some(Ok(one)) = server.accept().await {
                drop(found.send(one));
            }
        });
        let asked = request();
        let (near, far) = tokio::join!(client.open(&asked), async {
            incoming.recv().await.unwrap().accept().unwrap()
        });
        let (near, far) = (near.unwrap(), far);
        tokio::time::sleep(due - Duration::from_secs(1)).await;
        assert!(client.is_alive(), "it drained too early");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(!client.is_alive(), "it did not drain");
        let ((_near_read, mut near), (mut far_read, _far)) = (near.split(), far.split());
        near.write(Bytes::from_static(b"after")).await.unwrap();
        near.finish().unwrap();
        assert_eq!(read_all(&mut far_read).await, "after");
    });
}

#[test]
fn losing_the_tunnel_ends_its_streams() {
    local(async {
        let (client, mut served) = tunnel(&TunnelSettings::default()).await;
        let (near, far) = stream(&client, &mut served).await;
        let (mut read, mut write) = near.split();
        served.end.abort();
        assert!(served.end.await.unwrap_err().is_cancelled());
        let lost = |error: StreamError| matches!(error, StreamError::TunnelLost { .. });
        assert!(lost(read.read().await.unwrap().unwrap_err()));
        assert!(lost(std::future::poll_fn(|cx| write.poll_reset(cx)).await));
        assert!(lost(far.split().0.read().await.unwrap().unwrap_err()));
        assert!(!client.is_alive());
    });
}

#[test]
fn a_client_without_streams_that_is_dropped_closes_the_tunnel() {
    paused(async {
        let (client, served) = tunnel(&TunnelSettings::default()).await;
        let began = Instant::now();
        drop(client);
        assert_eq!(served.end.await.unwrap(), Ok(()));
        assert_eq!(began.elapsed(), Duration::ZERO);
    });
}
