//! A pod's stock of unconnected sockets, so that dialling needs no `setns` on
//! the way of a connection.
//!
//! A pod that dials seldom gets one socket at a time. Each time a worker finds
//! the stock empty the next batch doubles, and the stock is refilled before it
//! runs out; [`SocketStash::relax`], called now and then, gives back what an
//! idle pod does not use.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Netns, NetnsThread, stream_socket};
use crate::budget::{Budgeted, OverLimit, PodBudget};

/// Sockets made in one visit to a busy pod's namespace, at most.
const BATCH_MAX: usize = 32;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address in canonical form.
    pub fn of(addr: SocketAddr) -> Self {
        if addr.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// An unconnected socket with its place in the pod's budget.
pub type PodSocket = Budgeted<OwnedFd>;

/// Why no socket could be had.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The pod may hold no more.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// The namespace cannot be entered, or no descriptor is left.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Unconnected sockets in one pod's namespace.
#[derive(Debug)]
pub struct SocketStash {
    netns: Arc<Netns>,
    thread: NetnsThread,
    shelves: [Arc<Shelf>; 2],
}

#[derive(Debug)]
struct Shelf {
    family: Family,
    budget: Arc<PodBudget>,
    sockets: Mutex<Vec<PodSocket>>,
    /// Sockets to make in one visit.
    batch: AtomicUsize,
    refilling: AtomicBool,
    used: AtomicBool,
}

impl SocketStash {
    /// An empty stock for `netns`, whose sockets count in `budget`.
    pub fn new(netns: Arc<Netns>, thread: NetnsThread, budget: &Arc<PodBudget>) -> Self {
        let shelves = [Family::V4, Family::V6].map(|family| Arc::new(Shelf::new(family, budget)));
        Self {
            netns,
            thread,
            shelves,
        }
    }

    /// An unconnected non-blocking socket of `family` in the pod's namespace.
    ///
    /// # Errors
    /// When the pod's budget is used up, the namespace cannot be entered or no descriptor is
    /// left.
    pub async fn take(&self, family: Family) -> Result<PodSocket, TakeError> {
        let shelf = &self.shelves[family as usize];
        shelf.used.store(true, Ordering::Relaxed);
        let batch = shelf.batch.load(Ordering::Relaxed);
        let (found, left) = shelf.pop();
        if let Some(socket) = found {
            if left < batch / 2 {
                self.refill(shelf, batch);
            }
            return Ok(socket);
        }
        shelf
            .batch
            .store((batch * 2).min(BATCH_MAX), Ordering::Relaxed);
        let shelf = Arc::clone(shelf);
        self.thread
            .run(self.netns.as_fd(), move || shelf.make(batch))
            .await
            .map_err(io::Error::from)?
    }

    /// Halves the batch of a shelf that nobody used since the last call and
    /// closes what it holds.
    pub fn relax(&self) {
        for shelf in &self.shelves {
            if shelf.used.swap(false, Ordering::Relaxed) {
                continue;
            }
            let batch = shelf.batch.load(Ordering::Relaxed);
            shelf.batch.store((batch / 2).max(1), Ordering::Relaxed);
            let unused = std::mem::take(&mut *shelf.lock());
            drop(unused);
        }
    }

    fn refill(&self, shelf: &Arc<Shelf>, batch: usize) {
        if shelf.refilling.swap(true, Ordering::Acquire) {
            return;
        }
        let refill = Refill(Arc::clone(shelf));
        if let Ok(netns) = self.netns.as_fd().try_clone_to_owned() {
            // A failure, a full queue among them, shows at the next take that finds nothing.
            self.thread.try_submit(netns, move || {
                if let Ok(socket) = refill.0.make(batch) {
                    refill.0.lock().push(socket);
                }
            });
        }
    }
}

/// A refill under way; dropped when it is done or could not be.
struct Refill(Arc<Shelf>);

impl Drop for Refill {
    fn drop(&mut self) {
        self.0.refilling.store(false, Ordering::Release);
    }
}

impl Shelf {
    fn new(family: Family, budget: &Arc<PodBudget>) -> Self {
        Self {
            family,
            budget: Arc::clone(budget),
            sockets: Mutex::new(Vec::new()),
            batch: AtomicUsize::new(1),
            refilling: AtomicBool::new(false),
            used: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<PodSocket>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pop(&self) -> (Option<PodSocket>, usize) {
        let mut sockets = self.lock();
        let found = sockets.pop();
        (found, sockets.len())
    }

    /// Makes `batch` sockets in the calling thread's namespace, shelves all but
    /// one, and returns that one. Stops early, without an error, when at least
    /// one could be made.
    fn make(&self, batch: usize) -> Result<PodSocket, TakeError> {
        let descriptor = self.budget.descriptor()?;
        let inner = stream_socket(self.family)?;
        let spare = || {
            let descriptor = self.budget.spare_descriptor()?;
            let inner = stream_socket(self.family).ok()?;
            Some(Budgeted { inner, descriptor })
        };
        let spare: Vec<PodSocket> = (1..batch).map_while(|_| spare()).collect();
        self.lock().extend(spare);
        Ok(Budgeted { inner, descriptor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::{BudgetLimits, NodeBudget};
    use std::path::Path;

    fn budget() -> Arc<PodBudget> {
        NodeBudget::unlimited().pod()
    }

    fn socket(budget: &Arc<PodBudget>) -> PodSocket {
        Budgeted {
            inner: stream_socket(Family::V4).unwrap(),
            descriptor: budget.descriptor().unwrap(),
        }
    }

    async fn own_namespace() -> SocketStash {
        let thread = NetnsThread::start().unwrap();
        let file = OwnedFd::from(std::fs::File::open("/proc/self/ns/net").unwrap());
        let netns = Netns {
            file,
            cookie: crate::intercept::NetnsCookie(1),
            inode: 0,
        };
        assert!(!netns.is_at(Path::new("/nowhere")));
        SocketStash::new(Arc::new(netns), thread, &budget())
    }

    /// Sockets on the shelf after a take that found it empty.
    #[test]
    fn batches_double_and_an_idle_shelf_empties() {
        let shelf = Shelf::new(Family::V4, &budget());
        assert!(shelf.make(8).is_ok());
        assert_eq!(shelf.lock().len(), 7);
    }

    #[test]
    fn make_opens_no_spare_sockets_near_the_limit() {
        let node = NodeBudget::new(&BudgetLimits {
            node_descriptors: 100,
            pod_descriptors: 10,
            node_buffered_bytes: 1,
            pod_buffered_bytes: 1,
        });
        let shelf = Shelf::new(Family::V4, &node.pod());
        let mut held: Vec<_> = (0..4).map(|_| shelf.make(1).unwrap()).collect();
        held.push(shelf.make(8).unwrap());
        assert_eq!(shelf.lock().len(), 1, "up to half of the limit");
        held.extend((0..4).map(|_| shelf.make(8).unwrap()));
        assert_eq!(shelf.lock().len(), 1);
        let over = shelf.make(8).unwrap_err();
        assert!(matches!(over, TakeError::OverLimit(_)), "{over}");
    }

    #[tokio::test]
    async fn relaxing_twice_gives_everything_back() {
        let stash = own_namespace().await;
        let shelf = &stash.shelves[0];
        let own = socket(&shelf.budget);
        shelf.lock().push(own);
        shelf.batch.store(16, Ordering::Relaxed);
        shelf.used.store(true, Ordering::Relaxed);
        stash.relax();
        assert_eq!(shelf.lock().len(), 1, "used since the last call: kept");
        stash.relax();
        assert_eq!(shelf.lock().len(), 0);
        assert_eq!(shelf.batch.load(Ordering::Relaxed), 8);
    }

    /// A listing of sockets that takes long keeps no dial waiting for a socket.
    #[tokio::test]
    #[ignore = "needs root: cargo xtask test"]
    async fn take_is_answered_while_sockets_are_listed() {
        let threads = super::super::NetnsThreads::start().unwrap();
        let own = std::fs::File::open("/proc/self/ns/net").unwrap();
        let netns = Netns {
            file: OwnedFd::from(own.try_clone().unwrap()),
            cookie: crate::intercept::NetnsCookie(1),
            inode: 0,
        };
        let stash = SocketStash::new(
            Arc::new(netns),
            threads.open.clone(),
            &crate::budget::NodeBudget::unlimited().pod(),
        );
        let (started, has_started) = tokio::sync::oneshot::channel();
        let (end, until_end) = std::sync::mpsc::channel::<()>();
        let listing = async {
            let listing = move || {
                started.send(()).unwrap();
                until_end.recv().unwrap();
            };
            threads.sockets.run(own.as_fd(), listing).await.unwrap();
        };
        let dialling = async {
            has_started.await.unwrap();
            stash.take(Family::V4).await.unwrap();
            end.send(()).unwrap();
        };
        tokio::join!(listing, dialling);
    }
}
