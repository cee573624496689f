//! The pool against servers in this process. The clock is paused, so waiting
//! costs nothing and time-outs are exact.

mod lifetime;
mod limits;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::DuplexStream;
use tokio::task::{JoinHandle, spawn_local};

use super::{Connected, Pool, PoolError, PoolSettings};
use crate::hbone::testing::{Served, paused, pipe, request, serve};
use crate::hbone::{OpenError, StreamError, TunnelSettings, TunnelStream};
use crate::tls::Session;

type Opened = Result<TunnelStream, PoolError<&'static str>>;

/// What a dial returns that involved no TLS.
fn connected(io: DuplexStream) -> Result<Connected<DuplexStream>, &'static str> {
    Ok(Connected {
        io,
        session: None,
        budget: None,
    })
}

/// A destination that dials, serves, and counts.
#[derive(Clone)]
struct Destination {
    settings: TunnelSettings,
    dials: Rc<Cell<usize>>,
    delay: Duration,
    fails: Rc<Cell<bool>>,
    served: Rc<RefCell<Vec<JoinHandle<()>>>>,
    /// The far ends of all streams.
    streams: Rc<RefCell<Vec<TunnelStream>>>,
    /// What its handshakes agreed on, of the first dial on.
    sessions: Rc<RefCell<std::collections::VecDeque<Arc<Session>>>>,
}

impl Destination {
    fn new(settings: &PoolSettings) -> Self {
        Self {
            settings: settings.tunnel.clone(),
            dials: Rc::default(),
            delay: Duration::from_millis(100),
            fails: Rc::default(),
            served: Rc::default(),
            streams: Rc::default(),
            sessions: Rc::default(),
        }
    }

    async fn dial(&self) -> Result<DuplexStream, &'static str> {
        self.dials.set(self.dials.get() + 1);
        tokio::time::sleep(self.delay).await;
        if self.fails.get() {
            return Err("connection refused");
        }
        let (near, far) = pipe();
        let served = serve(far, &self.settings);
        let streams = self.streams.clone();
        let task = spawn_local(accept_all(served, streams));
        self.served.borrow_mut().push(task);
        Ok(near)
    }

    async fn open(&self, pool: &Pool<u8, &'static str>, key: u8) -> Opened {
        pool.open(&key, &request(), async || {
            let session = self.sessions.borrow_mut().pop_front();
            Ok(Connected {
                session,
                ..connected(self.dial().await?)?
            })
        })
        .await
    }

    /// Opens `count` streams at once.
    async fn open_many(&self, pool: &Pool<u8, &'static str>, count: usize) -> Vec<Opened> {
        let mut tasks = Vec::new();
        for _ in 0..count {
            let (pool, to) = (pool.clone(), self.clone());
            tasks.push(spawn_local(async move { to.open(&pool, 1).await }));
        }
        let mut opened = Vec::new();
        for task in tasks {
            opened.push(task.await.unwrap());
        }
        opened
    }

    fn dials(&self) -> usize {
        self.dials.get()
    }
}

/// Aborted, it takes the tunnel with it.
async fn accept_all(mut served: Served, streams: Rc<RefCell<Vec<TunnelStream>>>) {
    struct Abort(tokio::task::AbortHandle);
    impl Drop for Abort {
        fn drop(&mut self) {
            self.0.abort();
        }
    }
    let _abort = Abort(served.end.abort_handle());
    while let Some(incoming) = served.incoming.recv().await {
        if let Ok(stream) = incoming.accept() {
            streams.borrow_mut().push(stream);
        }
    }
}

fn settings() -> PoolSettings {
    PoolSettings {
        tunnel: TunnelSettings {
            max_streams: 4,
            ..TunnelSettings::default()
        },
        ..PoolSettings::default()
    }
}

fn pool(settings: &PoolSettings) -> (Pool<u8, &'static str>, Destination) {
    (Pool::new(settings.clone()), Destination::new(settings))
}

#[test]
fn one_tunnel_carries_one_keys_streams() {
    paused(async {
        let (pool, to) = pool(&settings());
        let _first = to.open(&pool, 1).await.unwrap();
        let _second = to.open(&pool, 1).await.unwrap();
        assert_eq!(to.dials(), 1);
        let _other = to.open(&pool, 2).await.unwrap();
        assert_eq!(to.dials(), 2);
        let stats = pool.stats();
        assert_eq!((stats.tunnels, stats.streams, stats.waiting), (2, 3, 0));
    });
}

#[test]
fn callers_at_once_share_a_dial_up_to_its_streams() {
    paused(async {
        for (callers, dials) in [(4, 1), (5, 2), (20, 5)] {
            let (pool, to) = pool(&settings());
            let opened = to.open_many(&pool, callers).await;
            assert!(opened.iter().all(Result::is_ok));
            assert_eq!(to.dials(), dials, "{callers} callers");
            assert_eq!(pool.stats().streams, callers);
        }
    });
}

#[test]
fn all_who_wait_for_a_dial_get_its_reason() {
    paused(async {
        let (pool, to) = pool(&settings());
        to.fails.set(true);
        for error in to.open_many(&pool, 4).await {
            let error = error.unwrap_err();
            assert_eq!(error.to_string(), "connection refused");
        }
        assert_eq!(to.dials(), 1);
        assert_eq!(pool.stats(), super::PoolStats::default());
        // Failure is not remembered.
        to.fails.set(false);
        to.open(&pool, 1).await.unwrap();
    });
}

#[test]
fn a_dial_that_takes_too_long_is_given_up() {
    paused(async {
        let settings = settings();
        let (pool, mut to) = pool(&settings);
        to.delay = settings.dial_timeout * 2;
        let error = to.open(&pool, 1).await.unwrap_err();
        assert!(matches!(error, PoolError::DialTimeout(_)), "{error:?}");
        assert_eq!(pool.stats().tunnels, 0);
    });
}

#[test]
fn when_the_dialling_caller_gives_up_another_dials() {
    paused(async {
        let (pool, to) = pool(&settings());
        let first = {
            let (pool, to) = (pool.clone(), to.clone());
            spawn_local(async move { to.open(&pool, 1).await })
        };
        let second = {
            let (pool, to) = (pool.clone(), to.clone());
            spawn_local(async move { to.open(&pool, 1).await })
        };
        while pool.stats().waiting == 0 {
            tokio::task::yield_now().await;
        }
        first.abort();
        second.await.unwrap().unwrap();
        assert_eq!(to.dials(), 2);
        assert_eq!(pool.stats().tunnels, 1);
    });
}

#[test]
fn a_tunnel_found_dead_is_replaced_once() {
    paused(async {
        let (pool, to) = pool(&settings());
        let stream = to.open(&pool, 1).await.unwrap();
        // The server goes without a word; the pool still has the tunnel.
        to.served.borrow_mut().remove(0).abort();
        let _new = to.open(&pool, 1).await.unwrap();
        assert_eq!(to.dials(), 2);
        let error = stream.split().0.read().await.unwrap().unwrap_err();
        assert!(matches!(error, StreamError::TunnelLost { .. }));
    });
}

#[test]
fn a_refusal_is_not_tried_again() {
    paused(async {
        let (pool, to) = pool(&settings());
        let refuse = async || {
            to.dials.set(to.dials.get() + 1);
            let (near, far) = pipe();
            let mut served = serve(far, &to.settings);
            spawn_local(async move {
                while let Some(incoming) = served.incoming.recv().await {
                    incoming.refuse(crate::hbone::Refusal::Unauthorized);
                }
            });
            connected(near)
        };
        for _ in 0..2 {
            let error = pool.open(&1, &request(), refuse).await.unwrap_err();
            let PoolError::Open(OpenError::Refused { status: 401 }) = error else {
                panic!("{error:?}");
            };
        }
        assert_eq!(to.dials(), 1);
    });
}

#[test]
fn a_stream_the_peer_refuses_goes_to_a_fresh_tunnel() {
    paused(async {
        let (pool, to) = pool(&settings());
        let dial = async || {
            to.dials.set(to.dials.get() + 1);
            let (near, far) = pipe();
            let fresh = to.dials() > 1;
            spawn_local(async move {
                let mut server = h2::server::handshake(far).await.unwrap();
                let mut taken = Vec::new();
                while let Some(Ok((_, mut respond))) = server.accept().await {
                    if fresh || taken.is_empty() {
                        let answer = http::Response::new(());
                        taken.push(respond.send_response(answer, false).unwrap());
                    } else {
                        respond.send_reset(h2::Reason::REFUSED_STREAM);
                    }
                }
            });
            connected(near)
        };
        let _first = pool.open(&1, &request(), dial).await.unwrap();
        let _second = pool.open(&1, &request(), dial).await.unwrap();
        assert_eq!(to.dials(), 2);
    });
}
