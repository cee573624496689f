//! The pool's book-keeping: which tunnels and dials a key has, who waits, and
//! what ends when. All of it is synchronous; the pool awaits.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, sleep_until};

use super::{Cut, PoolError, PoolSettings, PoolStats};
use crate::hbone::slots::Lease;
use crate::hbone::{TunnelClient, TunnelError};

pub(super) struct Shared<K, E> {
    pub(super) settings: PoolSettings,
    /// Told whenever a stream or a tunnel ends.
    pub(super) freed: Arc<Notify>,
    entries: RefCell<HashMap<K, Entry<E>>>,
    /// Tunnels that run, in the map or not, and dials.
    live: Cell<usize>,
    waiting: Cell<usize>,
}

/// What a key has. An entry without either is removed.
struct Entry<E> {
    tunnels: Vec<Rc<Tunnel>>,
    dials: Vec<Rc<Dial<E>>>,
}

/// A tunnel of the pool. The map owns it; the task that carries it does not.
pub(super) struct Tunnel {
    pub(super) client: TunnelClient,
    task: OnceCell<AbortHandle>,
}

/// A dial that others may join.
pub(super) struct Dial<E> {
    pub(super) done: Notify,
    outcome: RefCell<Option<Outcome<E>>>,
    joined: Cell<usize>,
}

pub(super) enum Outcome<E> {
    Ready(Weak<Tunnel>),
    Failed(PoolError<E>),
    /// Its caller gave up; somebody else has to dial.
    Abandoned,
}

/// Where a caller finds its stream.
pub(super) enum Place<K: Eq + Hash, E> {
    Stream(Rc<Tunnel>, Arc<Lease>),
    Join(Rc<Dial<E>>),
    Dial(Dialling<K, E>),
    Full,
}

/// The duty to finish a dial; dropping it gives the dial up.
pub(super) struct Dialling<K: Eq + Hash, E> {
    pool: Rc<Shared<K, E>>,
    key: K,
    dial: Rc<Dial<E>>,
    live: Option<Live<K, E>>,
}

/// One of the tunnels that may be at once.
struct Live<K, E>(Weak<Shared<K, E>>);

/// One of a count, given back when dropped.
pub(super) struct Counted<'a>(&'a Cell<usize>);

impl<K, E> Shared<K, E>
where
    K: Clone + Eq + Hash + 'static,
    E: 'static,
{
    pub(super) fn new(settings: PoolSettings) -> Rc<Self> {
        Rc::new(Self {
            settings,
            freed: Arc::new(Notify::new()),
            entries: RefCell::new(HashMap::new()),
            live: Cell::new(0),
            waiting: Cell::new(0),
        })
    }

    /// Finds a place. `joined` is the tunnel that the caller waited for, and
    /// goes first; with `fresh`, tunnels that were there before are passed by.
    pub(super) fn place(
        self: &Rc<Self>,
        key: &K,
        joined: Option<Rc<Tunnel>>,
        fresh: bool,
    ) -> Place<K, E> {
        if let Some(tunnel) = joined
            && let Some(lease) = tunnel.client.lease()
        {
            return Place::Stream(tunnel, lease);
        }
        let mut entries = self.entries.borrow_mut();
        let mut taken = 0;
        if let Some(entry) = entries.get_mut(key) {
            entry.tunnels.retain(|tunnel| tunnel.client.is_alive());
            if !fresh && let Some((tunnel, lease)) = entry.lease() {
                return Place::Stream(tunnel, lease);
            }
            let streams = self.settings.tunnel.max_streams as usize;
            // The one who dials needs a place as well.
            let open = |dial: &&Rc<Dial<E>>| dial.joined.get() + 1 < streams;
            if let Some(dial) = entry.dials.iter().find(open) {
                return Place::Join(dial.clone());
            }
            taken = entry.tunnels.len() + entry.dials.len();
        }
        if taken >= self.settings.max_tunnels_per_key || !self.make_room(&mut entries) {
            return Place::Full;
        }
        let dial = Rc::new(Dial {
            done: Notify::new(),
            outcome: RefCell::new(None),
            joined: Cell::new(0),
        });
        let entry = entries.entry(key.clone()).or_insert_with(|| Entry {
            tunnels: Vec::new(),
            dials: Vec::new(),
        });
        entry.dials.push(dial.clone());
        self.live.set(self.live.get() + 1);
        Place::Dial(Dialling {
            pool: self.clone(),
            key: key.clone(),
            dial,
            live: Some(Live(Rc::downgrade(self))),
        })
    }

    /// At the limit of all tunnels, one without streams has to go.
    fn make_room(&self, entries: &mut HashMap<K, Entry<E>>) -> bool {
        if self.live.get() < self.settings.max_tunnels {
            return true;
        }
        for entry in entries.values_mut() {
            let idle = |tunnel: &Rc<Tunnel>| tunnel.client.streams_in_use() == 0;
            if let Some(at) = entry.tunnels.iter().position(idle) {
                entry.tunnels.swap_remove(at);
                entries.retain(|_, entry| !entry.is_empty());
                return true;
            }
        }
        false
    }

    /// Counts a waiting caller, or refuses it.
    pub(super) fn wait(&self) -> Result<Counted<'_>, PoolError<E>> {
        if self.waiting.get() >= self.settings.max_waiting {
            return Err(PoolError::Overloaded(self.waiting.get()));
        }
        Ok(Counted::new(&self.waiting))
    }

    pub(super) fn retain(&self, mut keep: impl FnMut(&K) -> bool, cut: Cut) {
        self.entries.borrow_mut().retain(|key, entry| {
            let kept = keep(key);
            if !kept {
                entry.cut(cut);
            }
            kept
        });
        self.freed.notify_waiters();
    }

    pub(super) fn stats(&self) -> PoolStats {
        let entries = self.entries.borrow();
        let tunnels = entries.values().flat_map(|entry| &entry.tunnels);
        PoolStats {
            tunnels: self.live.get(),
            streams: tunnels.map(|tunnel| tunnel.client.streams_in_use()).sum(),
            waiting: self.waiting.get(),
        }
    }

    /// Changes a key's entry, if it still has one.
    fn update(&self, key: &K, change: impl FnOnce(&mut Entry<E>)) {
        let mut entries = self.entries.borrow_mut();
        if let Some(entry) = entries.get_mut(key) {
            change(entry);
            if entry.is_empty() {
                entries.remove(key);
            }
        }
    }

    fn remove(&self, key: &K, gone: &Weak<Tunnel>) {
        self.update(key, |entry| {
            entry
                .tunnels
                .retain(|tunnel| Rc::as_ptr(tunnel) != gone.as_ptr());
        });
    }
}

impl<E> Entry<E> {
    /// A place on the first tunnel that has one, so that the last fall idle.
    fn lease(&self) -> Option<(Rc<Tunnel>, Arc<Lease>)> {
        let mut tunnels = self.tunnels.iter();
        tunnels.find_map(|tunnel| Some((tunnel.clone(), tunnel.client.lease()?)))
    }

    fn is_empty(&self) -> bool {
        self.tunnels.is_empty() && self.dials.is_empty()
    }

    fn cut(&mut self, cut: Cut) {
        for dial in self.dials.drain(..) {
            dial.settle(Outcome::Failed(PoolError::Cut));
        }
        for tunnel in self.tunnels.drain(..) {
            if cut == Cut::Abrupt
                && let Some(task) = tunnel.task.get()
            {
                task.abort();
            }
        }
    }
}

impl<K, E> Dialling<K, E>
where
    K: Clone + Eq + Hash + 'static,
    E: 'static,
{
    /// Puts the new tunnel into the pool and starts to carry it.
    pub(super) fn succeed(
        mut self,
        client: TunnelClient,
        driver: impl Future<Output = Result<(), TunnelError>> + 'static,
    ) -> Result<Rc<Tunnel>, PoolError<E>> {
        if let Some(Outcome::Failed(error)) = self.dial.outcome() {
            return Err(error);
        }
        let tunnel = Rc::new(Tunnel {
            client,
            task: OnceCell::new(),
        });
        let weak = Rc::downgrade(&tunnel);
        let task = spawn_local(carry(
            self.live.take(),
            self.key.clone(),
            weak.clone(),
            self.pool.settings.idle,
            driver,
        ));
        let _ = tunnel.task.set(task.abort_handle());
        self.pool
            .update(&self.key, |entry| entry.tunnels.push(tunnel.clone()));
        self.dial.settle(Outcome::Ready(weak));
        Ok(tunnel)
    }

    /// Tells all who joined why there is no tunnel.
    pub(super) fn fail(self, error: PoolError<E>) -> PoolError<E> {
        self.dial.settle(Outcome::Failed(error.clone()));
        error
    }
}

impl<K: Eq + Hash, E> Drop for Dialling<K, E> {
    fn drop(&mut self) {
        let mut entries = self.pool.entries.borrow_mut();
        if let Some(entry) = entries.get_mut(&self.key) {
            entry.dials.retain(|dial| !Rc::ptr_eq(dial, &self.dial));
            if entry.is_empty() {
                entries.remove(&self.key);
            }
        }
        drop(entries);
        self.dial.settle(Outcome::Abandoned);
    }
}

impl<E> Dial<E> {
    pub(super) fn join(&self) -> Counted<'_> {
        Counted::new(&self.joined)
    }

    pub(super) fn outcome(&self) -> Option<Outcome<E>> {
        self.outcome.borrow().as_ref().map(Outcome::clone)
    }

    /// The first outcome stands.
    fn settle(&self, outcome: Outcome<E>) {
        self.outcome.borrow_mut().get_or_insert(outcome);
        self.done.notify_waiters();
    }
}

impl<E> Outcome<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Ready(tunnel) => Self::Ready(tunnel.clone()),
            Self::Failed(error) => Self::Failed(error.clone()),
            Self::Abandoned => Self::Abandoned,
        }
    }
}

impl<'a> Counted<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
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
    idle: std::time::Duration,
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
            () = sleep_until(check) => match tunnel.upgrade() {
                Some(tunnel) if tunnel.client.idle_since().is_none_or(|since| since + idle > check) => {
                    check = tunnel.client.idle_since().unwrap_or(check) + idle;
                }
                Some(_) => {
                    remove();
                    break driver.await;
                }
                None => break driver.await,
            },
        }
    };
    remove();
    if let Err(error) = end {
        tracing::debug!(%error, "tunnel ended");
    }
}
