//! When tunnels leave the pool, and what becomes of their streams.

use tokio::task::spawn_local;
use tokio::time::sleep;

use super::super::{Cut, PoolError};
use super::{StreamError, TunnelStream, paused, pool, settings};

async fn is_lost(stream: TunnelStream) -> bool {
    let (mut read, _write) = stream.split();
    let lost = read.read().await.unwrap().unwrap_err();
    matches!(lost, StreamError::TunnelLost { .. })
}

#[test]
fn an_idle_tunnel_closes_and_a_busy_one_stays() {
    paused(async {
        let settings = settings();
        let (pool, to) = pool(&settings);
        let stream = to.open(&pool, 1).await.unwrap();
        sleep(settings.idle * 10).await;
        assert_eq!(pool.stats().tunnels, 1);
        drop(stream);
        sleep(settings.idle * 9 / 10).await;
        let again = to.open(&pool, 1).await.unwrap();
        assert_eq!(to.dials(), 1, "the tunnel was closed too early");
        drop(again);
        sleep(settings.idle * 9 / 10).await;
        assert_eq!(pool.stats().tunnels, 1, "the tunnel was closed too early");
        sleep(settings.idle * 2 / 10).await;
        assert_eq!(pool.stats().tunnels, 0);
        let server = to.served.borrow_mut().remove(0);
        server.await.unwrap();
    });
}

#[test]
fn an_abrupt_cut_ends_the_streams_of_its_keys_only() {
    paused(async {
        let (pool, to) = pool(&settings());
        let cut = to.open(&pool, 1).await.unwrap();
        let _kept = to.open(&pool, 2).await.unwrap();
        pool.retain(|key| *key == 2, Cut::Abrupt);
        assert!(is_lost(cut).await);
        let stats = pool.stats();
        assert_eq!((stats.tunnels, stats.streams), (1, 1));
        to.open(&pool, 1).await.unwrap();
        assert_eq!(to.dials(), 3);
    });
}

#[test]
fn a_graceful_cut_lets_streams_finish_and_takes_no_more() {
    paused(async {
        let (pool, to) = pool(&settings());
        let old = to.open(&pool, 1).await.unwrap();
        pool.retain(|_| false, Cut::Graceful);
        let _new = to.open(&pool, 1).await.unwrap();
        assert_eq!(to.dials(), 2);
        let (_read, mut write) = old.split();
        write.write("still there".into()).await.unwrap();
        let far = to.streams.borrow_mut().remove(0);
        let (mut far_read, _far_write) = far.split();
        let heard = far_read.read().await.unwrap().unwrap();
        assert_eq!(heard, "still there");
        assert_eq!(pool.stats().tunnels, 2);
        drop((_read, write, far_read, _far_write));
        while pool.stats().tunnels > 1 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_cut_fails_the_dials_of_its_keys() {
    paused(async {
        let (pool, to) = pool(&settings());
        let opening = {
            let (pool, to) = (pool.clone(), to.clone());
            spawn_local(async move { to.open_many(&pool, 3).await })
        };
        while pool.stats().waiting < 2 {
            tokio::task::yield_now().await;
        }
        pool.retain(|_| false, Cut::Abrupt);
        for error in opening.await.unwrap() {
            assert!(matches!(error, Err(PoolError::Cut)), "{error:?}");
        }
        assert_eq!(pool.stats().tunnels, 0);
    });
}

#[test]
fn a_pool_that_is_dropped_lets_its_streams_finish() {
    paused(async {
        let (pool, to) = pool(&settings());
        let stream = to.open(&pool, 1).await.unwrap();
        drop(pool);
        let (_read, mut write) = stream.split();
        write.write("still there".into()).await.unwrap();
        write.finish().unwrap();
        let far = to.streams.borrow_mut().remove(0);
        let (mut far_read, _far_write) = far.split();
        let heard = crate::hbone::testing::read_all(&mut far_read).await;
        assert_eq!(heard, "still there");
    });
}
