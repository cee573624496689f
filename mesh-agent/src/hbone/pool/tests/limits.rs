//! What the pool does when it may not have more.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::spawn_local;
use tokio::time::Instant;

use super::super::{PoolError, PoolSettings};
use super::{paused, pipe, pool, settings};
use crate::hbone::TunnelSettings;
use crate::identity::fixtures::{ManualClock, TestCa, id, trusting};
use crate::identity::{BoxFuture, CertificateAuthority, IssueError, Issued, SpiffeId, SvidStore};
use crate::tls::{self, ParametersStore, Session, TlsSettings};

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

/// Readers that stall use up the connection window of a peer like ztunnel: the next stream gets
/// a tunnel of its own, and shares one only where no more tunnels may be.
#[test]
fn open_avoids_tunnels_whose_window_is_used_up() {
    paused(async {
        let settings = PoolSettings {
            tunnel: TunnelSettings {
                stream_window: 4 << 20,
                connection_window: 16 << 20,
                ..TunnelSettings::default()
            },
            max_tunnels_per_key: 2,
            ..PoolSettings::default()
        };
        let (pool, to) = pool(&settings);
        let mut readers = Vec::new();
        for tunnel in 1..=2 {
            for _ in 0..4 {
                let (read, mut write) = to.open(&pool, 1).await.unwrap().split();
                readers.push(read);
                spawn_local(async move { write.write(vec![0; 8 << 20].into()).await });
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(to.dials(), tunnel);
        }
        let _ninth = to.open(&pool, 1).await.unwrap();
        assert_eq!(to.dials(), 2);
    });
}

/// A peer whose certificate has expired is asked for nothing new: what is open goes on.
#[test]
fn open_replaces_a_tunnel_whose_peer_has_an_expired_certificate() {
    let (expired, valid) = (ended_session(1), ended_session(u64::from(u32::MAX)));
    paused(async {
        let (pool, to) = pool(&settings());
        to.sessions.borrow_mut().extend([expired, valid]);
        let old = to.open(&pool, 1).await.unwrap();
        let _new = to.open(&pool, 1).await.unwrap();
        assert_eq!(to.dials(), 2);
        let _again = to.open(&pool, 1).await.unwrap();
        assert_eq!(to.dials(), 2);
        let (_read, mut write) = old.split();
        write.write("still there".into()).await.unwrap();
        let (mut far, _write) = to.streams.borrow_mut().remove(0).split();
        assert_eq!(far.read().await.unwrap().unwrap(), "still there");
    });
}

/// A real handshake with a server whose certificate ends so many seconds after 1970.
fn ended_session(end: u64) -> Arc<Session> {
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(end + 100);
    crate::hbone::testing::local(async move {
        let ca = TestCa::new("cluster.local");
        let credential = async |account| {
            let id = id(account);
            let issued = ca.issue_valid(&id, end - Duration::from_secs(100), end);
            let clock = ManualClock::at(end - Duration::from_secs(50));
            let parameters = ParametersStore::new(TlsSettings::default());
            let store = SvidStore::with_clock(
                Arc::new(Once::from(issued)),
                trusting(&ca),
                parameters,
                clock,
            );
            store.acquire(&id).await.unwrap()
        };
        let (web, db) = (credential("web").await, credential("db").await);
        let (near, far) = pipe();
        let expected = id("db");
        let (accepted, connected) =
            tokio::join!(tls::accept(&db, far), tls::connect(&web, &expected, near));
        accepted.unwrap();
        Arc::new(connected.unwrap().session)
    })
}

/// Issues one prepared answer.
struct Once(std::sync::Mutex<Option<Issued>>);

impl From<Issued> for Once {
    fn from(issued: Issued) -> Self {
        Self(Some(issued).into())
    }
}

impl CertificateAuthority for Once {
    fn issue<'a>(&'a self, _: &'a SpiffeId) -> BoxFuture<'a, Result<Issued, IssueError>> {
        let issued = self.0.lock().unwrap().take();
        Box::pin(async move {
            match issued {
                Some(issued) => Ok(issued),
                None => std::future::pending().await,
            }
        })
    }
}
