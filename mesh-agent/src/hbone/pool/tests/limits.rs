//! What the pool does when it may not have more.

use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::Instant;

use super::super::{PoolError, PoolSettings};
use super::{paused, pool, settings};

#[test]
fn a_full_key_waits_for_a_place_and_not_for_ever() {
    paused(async {
        let settings = PoolSettings {
            max_tunnels_per_key: 2,
            ..settings()
        };
        let (pool, to) = pool(&settings);
        let mut opened = to.open_many(&pool, 8).await;
        assert!(opened.iter().all(Result::is_ok));
        let began = Instant::now();
        let error = to.open(&pool, 1).await.unwrap_err();
        assert!(matches!(error, PoolError::Full(_)), "{error:?}");
        assert!(began.elapsed() >= settings.max_wait);
        let ninth = {
            let (pool, to) = (pool.clone(), to.clone());
            spawn_local(async move { to.open(&pool, 1).await })
        };
        while pool.stats().waiting == 0 {
            tokio::task::yield_now().await;
        }
        opened.pop();
        ninth.await.unwrap().unwrap();
        assert_eq!(to.dials(), 2);
    });
}

#[test]
fn at_the_limit_of_all_an_idle_tunnel_makes_room_and_a_busy_one_does_not() {
    paused(async {
        let settings = PoolSettings {
            max_tunnels: 1,
            max_wait: Duration::from_secs(1),
            ..settings()
        };
        let (pool, to) = pool(&settings);
        let busy = to.open(&pool, 1).await.unwrap();
        let error = to.open(&pool, 2).await.unwrap_err();
        assert!(matches!(error, PoolError::Full(_)), "{error:?}");
        drop(busy);
        let _second = to.open(&pool, 2).await.unwrap();
        while pool.stats().tunnels > 1 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn no_more_than_so_many_wait() {
    paused(async {
        let settings = PoolSettings {
            max_waiting: 2,
            ..settings()
        };
        let (pool, to) = pool(&settings);
        // One dials, two wait, the fourth is refused.
        let opened = to.open_many(&pool, 4).await;
        let refused: Vec<_> = opened.iter().filter_map(|o| o.as_ref().err()).collect();
        assert!(matches!(refused[..], [PoolError::Overloaded(2)]));
    });
}
