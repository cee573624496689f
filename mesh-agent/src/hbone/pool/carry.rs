//! A tunnel of the pool and the task that carries it to its end.

use std::future::Future;
use std::hash::Hash;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, sleep_until};

use super::state::Shared;
use crate::hbone::{TunnelClient, TunnelError};

/// A tunnel of the pool. The map owns it; the task that carries it does not.
pub(super) struct Tunnel {
    pub(super) client: TunnelClient,
    task: AbortHandle,
}

/// One of the tunnels that may be at once.
pub(super) struct Live<K, E>(Weak<Shared<K, E>>);

impl Tunnel {
    /// Starts to carry a new tunnel.
    pub(super) fn start<K, E>(
        live: Option<Live<K, E>>,
        key: K,
        idle: Duration,
        client: TunnelClient,
        driver: impl Future<Output = Result<(), TunnelError>> + 'static,
    ) -> Rc<Self>
    where
        K: Clone + Eq + Hash + 'static,
        E: 'static,
    {
        Rc::new_cyclic(|tunnel| {
            let task = spawn_local(carry(live, key, tunnel.clone(), idle, driver));
            Self {
                client,
                task: task.abort_handle(),
            }
        })
    }

    /// Ends the tunnel and all its streams at once.
    pub(super) fn abort(&self) {
        self.task.abort();
    }

    /// When to look again whether the tunnel is idle; `None` when it has been
    /// for long enough.
    fn next_check(&self, now: Instant, idle: Duration) -> Option<Instant> {
        match self.client.idle_since() {
            None => Some(now + idle),
            Some(since) if since + idle > now => Some(since + idle),
            Some(_) => None,
        }
    }
}

impl<K, E> Live<K, E> {
    pub(super) fn new(pool: &Rc<Shared<K, E>>) -> Self {
        pool.live.set(pool.live.get() + 1);
        Self(Rc::downgrade(pool))
    }
}

impl<K, E> Drop for Live<K, E> {
    fn drop(&mut self) {
        if let Some(pool) = self.0.upgrade() {
            pool.live.set(pool.live.get() - 1);
            pool.freed.notify_waiters();
        }
    }
}

/// Carries a tunnel to its end, and takes it out of the pool when it ends or
/// has been idle for too long; without its place there, it ends by itself.
async fn carry<K, E>(
    live: Option<Live<K, E>>,
    key: K,
    tunnel: Weak<Tunnel>,
    idle: Duration,
    driver: impl Future<Output = Result<(), TunnelError>>,
) where
    K: Clone + Eq + Hash + 'static,
    E: 'static,
{
    let pool = live.as_ref().map_or_else(Weak::new, |live| live.0.clone());
    let remove = || {
        if let Some(pool) = pool.upgrade() {
            pool.remove(&key, &tunnel);
        }
    };
    let mut driver = pin!(driver);
    let mut check = Instant::now() + idle;
    let end = loop {
        tokio::select! {
            biased;
            end = &mut driver => break end,
            () = sleep_until(check) => {
                let next = tunnel.upgrade().and_then(|tunnel| tunnel.next_check(check, idle));
                match next {
                    Some(next) => check = next,
                    None => {
                        remove();
                        break driver.await;
                    }
                }
            }
        }
    };
    remove();
    if let Err(error) = end {
        tracing::debug!(%error, "tunnel ended");
    }
}
