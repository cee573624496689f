//! The connections that are open now: a sharded table that the command line lists,
//! the metrics read at each scrape, and policy and lifecycle changes cut.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;

use super::labels::{Direction, PodLabels, Security};
use super::meter::{Meter, Totals};
use super::reason::Reason;
use super::ruling::Ruling;
use super::traffic::Series;
use crate::tls::Session;

/// Names a connection in logs and listings; unique over restarts of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

impl fmt::Display for ConnectionId {
    /// Sixteen hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl std::str::FromStr for ConnectionId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

/// One open connection, as everyone but its owner sees it.
#[derive(Debug)]
pub struct LiveConnection {
    id: ConnectionId,
    direction: Direction,
    pod: Arc<PodLabels>,
    source: SocketAddr,
    destination: SocketAddr,
    opened: Instant,
    meter: Meter,
    details: Mutex<Details>,
    cut: OnceLock<Reason>,
    cut_signal: Notify,
}

/// What becomes known while the connection is being made.
#[derive(Clone, Debug, Default)]
pub(super) struct Details {
    pub(super) peer: Option<Arc<PodLabels>>,
    pub(super) peer_identity: Option<Arc<str>>,
    pub(super) service: Option<Arc<str>>,
    pub(super) upstream: Option<SocketAddr>,
    /// Endpoints of the service that failed before `upstream` was tried.
    pub(super) retries: u32,
    pub(super) client: Option<SocketAddr>,
    pub(super) security: Option<Security>,
    pub(super) session: Option<Arc<Session>>,
    pub(super) ruling: Option<Ruling>,
    /// Set when the connection counts as opened.
    pub(super) series: Option<Arc<Series>>,
    /// The part of the meter that `series` already holds.
    pub(super) accounted: Totals,
}

impl LiveConnection {
    /// Its name in logs and listings.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Which way it goes.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// The local pod it belongs to.
    pub fn pod(&self) -> &Arc<PodLabels> {
        &self.pod
    }

    /// The address it comes from.
    pub fn source(&self) -> SocketAddr {
        self.source
    }

    /// The address it was opened to.
    pub fn destination(&self) -> SocketAddr {
        self.destination
    }

    /// When it was opened.
    pub fn opened(&self) -> Instant {
        self.opened
    }

    /// Its byte counters.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// The peer's SPIFFE URI, once a handshake proved it.
    pub fn peer_identity(&self) -> Option<Arc<str>> {
        self.lock().peer_identity.clone()
    }

    /// The pod at the other end, where the agent chose it.
    pub fn peer(&self) -> Option<Arc<PodLabels>> {
        self.lock().peer.clone()
    }

    /// The address onward that was chosen for it, once one was.
    pub fn upstream(&self) -> Option<SocketAddr> {
        self.lock().upstream
    }

    /// The original client, where it is another than the source.
    pub fn client(&self) -> Option<SocketAddr> {
        self.lock().client
    }

    /// The handshake of the tunnel that carries it, once it has one.
    pub fn session(&self) -> Option<Arc<Session>> {
        self.lock().session.clone()
    }

    /// How its bytes travel, once that is settled.
    pub fn security(&self) -> Option<Security> {
        self.lock().security
    }

    /// Asks whoever carries the connection to end it. The first reason stays.
    /// Says whether this call was the first.
    pub fn cut(&self, reason: Reason) -> bool {
        let first = self.cut.set(reason).is_ok();
        self.cut_signal.notify_waiters();
        first
    }

    pub(super) fn cut_reason(&self) -> Option<Reason> {
        self.cut.get().copied()
    }

    pub(super) async fn wait_for_cut(&self) {
        let signal = self.cut_signal.notified();
        let mut signal = std::pin::pin!(signal);
        // Enlist before looking, or a cut between the two would go unnoticed.
        signal.as_mut().enable();
        if self.cut.get().is_none() {
            signal.await;
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Details> {
        self.details.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept of it once it has ended: not the tunnel's certificates.
    pub(super) fn close(&self) -> Details {
        let mut details = self.lock();
        details.session = None;
        details.clone()
    }

    pub(super) fn details(&self) -> Details {
        self.lock().clone()
    }

    /// The identities of who opened the connection and of who accepts it.
    pub(super) fn principals<'a>(
        &'a self,
        details: &'a Details,
    ) -> (Option<&'a str>, Option<&'a str>) {
        let own = Some(&*self.pod.identity);
        let peer = details.peer_identity.as_deref();
        match self.direction {
            Direction::Outbound => (own, peer),
            Direction::Inbound => (peer, own),
        }
    }
}

/// Shards of the table. Enough that the workers of a large machine seldom meet.
const SHARDS: usize = 64;

type Shard = Mutex<HashMap<u64, Arc<LiveConnection>>>;

/// Every open connection, by id.
#[derive(Debug)]
pub(super) struct Table {
    shards: Box<[Shard]>,
    next_id: AtomicU64,
}

impl Table {
    pub(super) fn new() -> Self {
        // The second in which the agent started is the upper half of each id, so that
        // the logs of two runs never share one.
        let epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            next_id: AtomicU64::new(epoch << 32 | 1),
        }
    }

    pub(super) fn open(
        &self,
        direction: Direction,
        pod: Arc<PodLabels>,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Arc<LiveConnection> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(LiveConnection {
            id: ConnectionId(id),
            direction,
            pod,
            source,
            destination,
            opened: Instant::now(),
            meter: Meter::default(),
            details: Mutex::default(),
            cut: OnceLock::new(),
            cut_signal: Notify::new(),
        });
        self.shard(id).insert(id, Arc::clone(&connection));
        connection
    }

    pub(super) fn remove(&self, id: ConnectionId) {
        self.shard(id.0).remove(&id.0);
    }

    pub(super) fn get(&self, id: ConnectionId) -> Option<Arc<LiveConnection>> {
        self.shard(id.0).get(&id.0).cloned()
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Calls `visit` on every open connection, with no lock held meanwhile.
    pub(super) fn for_each(&self, mut visit: impl FnMut(&Arc<LiveConnection>)) {
        let mut held = Vec::new();
        for shard in &self.shards {
            held.extend(lock(shard).values().cloned());
            for connection in held.drain(..) {
                visit(&connection);
            }
        }
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, HashMap<u64, Arc<LiveConnection>>> {
        lock(&self.shards[id as usize % SHARDS])
    }
}

fn lock(shard: &Shard) -> MutexGuard<'_, HashMap<u64, Arc<LiveConnection>>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
