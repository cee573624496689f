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
    sockets: Mutex<Vec<OwnedFd>>,
    /// Sockets to make in one visit.
    batch: AtomicUsize,
    refilling: AtomicBool,
    used: AtomicBool,
}

impl SocketStash {
    /// An empty stock for `netns`.
    pub fn new(netns: Arc<Netns>, thread: NetnsThread) -> Self {
        let shelves = [Family::V4, Family::V6].map(|family| Arc::new(Shelf::new(family)));
        Self {
            netns,
            thread,
            shelves,
        }
    }

    /// An unconnected non-blocking socket of `family` in the pod's namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered or no descriptor is left.
    pub async fn take(&self, family: Family) -> io::Result<OwnedFd> {
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
            .await?
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
    fn new(family: Family) -> Self {
        Self {
            family,
            sockets: Mutex::new(Vec::new()),
            batch: AtomicUsize::new(1),
            refilling: AtomicBool::new(false),
            used: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<OwnedFd>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pop(&self) -> (Option<OwnedFd>, usize) {
        let mut sockets = self.lock();
        let found = sockets.pop();
        (found, sockets.len())
    }

    /// Makes `batch` sockets in the calling thread's namespace, shelves all but
    /// one, and returns that one. Stops early, without an error, when at least
    /// one could be made.
    fn make(&self, batch: usize) -> io::Result<OwnedFd> {
        let first = stream_socket(self.family)?;
        let spare: Vec<OwnedFd> = (1..batch)
            .map_while(|_| stream_socket(self.family).ok())
            .collect();
        self.lock().extend(spare);
        Ok(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    async fn own_namespace() -> SocketStash {
        let thread = NetnsThread::start().unwrap();
        let file = OwnedFd::from(std::fs::File::open("/proc/self/ns/net").unwrap());
        let netns = Netns {
            file,
            cookie: crate::intercept::NetnsCookie(1),
            inode: 0,
        };
        assert!(!netns.is_at(Path::new("/nowhere")));
        SocketStash::new(Arc::new(netns), thread)
    }

    /// Sockets on the shelf after a take that found it empty.
    #[test]
    fn batches_double_and_an_idle_shelf_empties() {
        let shelf = Shelf::new(Family::V4);
        assert!(shelf.make(8).is_ok());
        assert_eq!(shelf.lock().len(), 7);
    }

    #[tokio::test]
    async fn relaxing_twice_gives_everything_back() {
        let stash = own_namespace().await;
        let shelf = &stash.shelves[0];
        shelf.lock().push(stream_socket(Family::V4).unwrap());
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
        let stash = SocketStash::new(Arc::new(netns), threads.open.clone());
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
