//! A dial in progress: its caller has the duty to finish it, others wait for
//! what becomes of it.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::hash::Hash;
use std::rc::{Rc, Weak};

use tokio::sync::Notify;

use super::PoolError;
use super::carry::{Live, Tunnel};
use super::state::{Counted, Shared};
use crate::hbone::{TunnelClient, TunnelError};

/// A dial that others may join.
pub(super) struct Dial<E> {
    pub(super) done: Notify,
    outcome: RefCell<Option<Outcome<E>>>,
    joined: Cell<usize>,
}

/// What became of a dial.
pub(super) enum Outcome<E> {
    Ready(Weak<Tunnel>),
    Failed(PoolError<E>),
    /// Its caller gave up; somebody else has to dial.
    Abandoned,
}

/// The duty to finish a dial; dropping it gives the dial up.
pub(super) struct Dialling<K, E>
where
    K: Clone + Eq + Hash + 'static,
    E: 'static,
{
    pool: Rc<Shared<K, E>>,
    key: K,
    dial: Rc<Dial<E>>,
    live: Option<Live<K, E>>,
}

impl<K, E> Dialling<K, E>
where
    K: Clone + Eq + Hash + 'static,
    E: 'static,
{
    /// Takes on the dial, and a place among the tunnels that may be.
    pub(super) fn new(pool: Rc<Shared<K, E>>, key: K, dial: Rc<Dial<E>>) -> Self {
        let live = Some(Live::new(&pool));
        Self {
            pool,
            key,
            dial,
            live,
        }
    }

    /// Puts the new tunnel into the pool and starts to carry it.
    pub(super) fn succeed(
        mut self,
        client: TunnelClient,
        driver: impl Future<Output = Result<(), TunnelError>> + 'static,
    ) -> Result<Rc<Tunnel>, PoolError<E>> {
        if let Some(Outcome::Failed(error)) = self.dial.outcome() {
            return Err(error);
        }
        let tunnel = Tunnel::start(
            self.live.take(),
            self.key.clone(),
            self.pool.settings.idle,
            client,
            driver,
        );
        self.pool
            .update(&self.key, |entry| entry.tunnels.push(tunnel.clone()));
        self.dial.settle(Outcome::Ready(Rc::downgrade(&tunnel)));
        Ok(tunnel)
    }

    /// Tells all who joined why there is no tunnel.
    pub(super) fn fail(self, error: PoolError<E>) -> PoolError<E> {
        self.dial.settle(Outcome::Failed(error.clone()));
        error
    }
}

impl<K, E> Drop for Dialling<K, E>
where
    K: Clone + Eq + Hash + 'static,
    E: 'static,
{
    fn drop(&mut self) {
        self.pool.update(&self.key, |entry| {
            entry.dials.retain(|dial| !Rc::ptr_eq(dial, &self.dial));
        });
        self.dial.settle(Outcome::Abandoned);
    }
}

impl<E> Dial<E> {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            done: Notify::new(),
            outcome: RefCell::new(None),
            joined: Cell::new(0),
        })
    }

    /// Callers that wait for this dial.
    pub(super) fn joined(&self) -> usize {
        self.joined.get()
    }

    /// Counts a caller that waits for this dial.
    pub(super) fn join(&self) -> Counted<'_> {
        Counted::new(&self.joined)
    }

    pub(super) fn outcome(&self) -> Option<Outcome<E>> {
        self.outcome.borrow().as_ref().map(Outcome::clone)
    }

    /// The first outcome stands.
    pub(super) fn settle(&self, outcome: Outcome<E>) {
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
