//! The pool's book-keeping: which tunnels and dials a key has, and who waits.
//! All of it is synchronous; the pool awaits.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::Notify;

use super::carry::Tunnel;
use super::dial::{Dial, Dialling, Outcome};
use super::{Cut, PoolError, PoolSettings, PoolStats};
use crate::hbone::TunnelClient;
use crate::hbone::slots::Lease;
use crate::tls::Session;

pub(super) struct Shared<K, E> {
    pub(super) settings: PoolSettings,
    /// Told whenever a stream or a tunnel ends.
    pub(super) freed: Arc<Notify>,
    entries: RefCell<HashMap<K, Entry<E>>>,
    /// Tunnels that run, in the map or not, and dials.
    pub(super) live: Cell<usize>,
    waiting: Cell<usize>,
}

/// What a key has. An entry without either is removed.
pub(super) struct Entry<E> {
    pub(super) tunnels: Vec<Rc<Tunnel>>,
    pub(super) dials: Vec<Rc<Dial<E>>>,
}

/// Where a caller finds its stream.
pub(super) enum Place<K, E>
where
    K: Clone + Eq + Hash + 'static,
    E: 'static,
{
    Stream(Rc<Tunnel>, Arc<Lease>),
    Join(Rc<Dial<E>>),
    Dial(Dialling<K, E>),
    Full,
}

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
            let now = SystemTime::now();
            entry
                .tunnels
                .retain(|tunnel| tunnel.client.is_alive() && tunnel.client.is_current(now));
            if !fresh && let Some((tunnel, lease)) = entry.lease(TunnelClient::has_room) {
                return Place::Stream(tunnel, lease);
            }
            let streams = self.settings.tunnel.max_streams as usize;
            // The one who dials needs a place as well.
            let open = |dial: &&Rc<Dial<E>>| dial.joined() + 1 < streams;
            if let Some(dial) = entry.dials.iter().find(open) {
                return Place::Join(dial.clone());
            }
            taken = entry.tunnels.len() + entry.dials.len();
        }
        if taken >= self.settings.max_tunnels_per_key || !self.make_room(&mut entries) {
            // One whose streams stall is better than none.
            let any = entries.get(key).filter(|_| !fresh);
            return match any.and_then(|entry| entry.lease(|_| true)) {
                Some((tunnel, lease)) => Place::Stream(tunnel, lease),
                None => Place::Full,
            };
        }
        let dial = Dial::new();
        let entry = entries.entry(key.clone()).or_insert_with(|| Entry {
            tunnels: Vec::new(),
            dials: Vec::new(),
        });
        entry.dials.push(dial.clone());
        Place::Dial(Dialling::new(self.clone(), key.clone(), dial))
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

    pub(super) fn retain_sessions(&self, mut keep: impl FnMut(&Session) -> bool) {
        let mut entries = self.entries.borrow_mut();
        for entry in entries.values_mut() {
            entry.tunnels.retain(|tunnel| {
                let kept = tunnel.client.session().is_none_or(&mut keep);
                if !kept {
                    tunnel.abort();
                }
                kept
            });
        }
        entries.retain(|_, entry| !entry.is_empty());
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
    pub(super) fn update(&self, key: &K, change: impl FnOnce(&mut Entry<E>)) {
        let mut entries = self.entries.borrow_mut();
        if let Some(entry) = entries.get_mut(key) {
            change(entry);
            if entry.is_empty() {
                entries.remove(key);
            }
        }
    }

    /// Takes a tunnel out, if it is still there.
    pub(super) fn remove(&self, key: &K, gone: &Weak<Tunnel>) {
        self.update(key, |entry| {
            entry
                .tunnels
                .retain(|tunnel| Rc::as_ptr(tunnel) != gone.as_ptr());
        });
    }
}

impl<E> Entry<E> {
    /// A place on the first tunnel that has one and suits, so that the last fall idle.
    fn lease(&self, suits: impl Fn(&TunnelClient) -> bool) -> Option<(Rc<Tunnel>, Arc<Lease>)> {
        let mut tunnels = self.tunnels.iter().filter(|tunnel| suits(&tunnel.client));
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
            if cut == Cut::Abrupt {
                tunnel.abort();
            }
        }
    }
}

impl<'a> Counted<'a> {
    pub(super) fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
