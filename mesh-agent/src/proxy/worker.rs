//! The worker threads. Each runs a single-threaded runtime, owns the connections
//! it serves and the tunnels these use, and shares nothing with the others on
//! the way of a connection.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::rc::Rc;
use std::sync::{Arc, mpsc as std_mpsc};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::LocalSet;

use super::accept::{self, Accepted};
use super::balance::Balance;
use super::labels::Labels;
use super::spare::SpareDescriptor;
use super::tunnels::Tunnels;
use super::{OpenTunnel, Pod, Shared};
use crate::hbone::PoolStats;

/// Connections and commands waiting for a worker; past that, the pods' backlogs
/// hold them.
const QUEUE: usize = 1024;

/// How long [`Workers::tunnels`] waits for the workers.
const COUNT_TIMEOUT: Duration = Duration::from_millis(200);

/// The running worker threads.
pub struct Workers {
    inboxes: Vec<mpsc::Sender<Job>>,
}

/// A worker thread could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start a worker thread: {0}")]
pub struct WorkersError(#[from] io::Error);

/// What a worker is asked to do.
pub(super) enum Job {
    /// Accept the pod's connections from now on.
    Listen(Arc<Pod>),
    /// Serve a connection that another worker accepted.
    Serve(Arc<Pod>, Accepted),
    /// Take the tunnels of a pod that left, by its epoch, out of use; cut them
    /// when the pod is gone.
    Forget { epoch: u64, gone: bool },
    /// Cut the tunnels to peers that are no longer trusted.
    Judge,
    /// Close every tunnel to other nodes once its streams have ended.
    Close(OpenTunnel),
    /// Say what tunnels there are.
    Count(std_mpsc::SyncSender<PoolStats>),
}

/// A worker's own state, reached from every task on it.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) tunnels: Tunnels,
    pub(super) labels: Labels,
    pub(super) balance: Rc<Balance>,
    pub(super) inboxes: Rc<[mpsc::Sender<Job>]>,
    pub(super) index: usize,
    /// Given up for a moment when the process has no other descriptor left.
    pub(super) spare: SpareDescriptor,
    seed: Cell<u64>,
}

impl Worker {
    /// A number for spreading load: fast, and no secret (xorshift64, Marsaglia 2003).
    pub(super) fn random(&self) -> u64 {
        let mut x = self.seed.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.seed.set(x);
        x
    }
}

impl Workers {
    /// Starts `count` workers, at least one.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be made.
    pub fn start(count: usize, shared: &Arc<Shared>) -> Result<Self, WorkersError> {
        let (inboxes, queues): (Vec<_>, Vec<_>) =
            (0..count.max(1)).map(|_| mpsc::channel(QUEUE)).unzip();
        for (index, queue) in queues.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let shared = Arc::clone(shared);
            let inboxes = inboxes.clone();
            std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    let worker = Worker {
                        tunnels: Tunnels::new(),
                        labels: Labels::default(),
                        balance: Rc::default(),
                        shared,
                        inboxes: inboxes.into(),
                        index,
                        spare: SpareDescriptor::open(),
                        seed: Cell::new(RandomState::new().hash_one(index) | 1),
                    };
                    LocalSet::new().block_on(&runtime, run(Rc::new(worker), queue));
                })?;
        }
        Ok(Self { inboxes })
    }

    /// Has one worker accept the pod's connections, which all workers then serve.
    pub async fn listen(&self, pod: Arc<Pod>) {
        let inbox = &self.inboxes[pod.epoch() as usize % self.inboxes.len()];
        // A worker ends with the process only.
        let _ = inbox.send(Job::Listen(pod)).await;
    }

    /// Takes the tunnels of a pod that left the mesh out of use. Their streams go
    /// on, unless the pod is `gone`.
    pub async fn forget(&self, pod: &Pod, gone: bool) {
        for inbox in &self.inboxes {
            let _ = inbox
                .send(Job::Forget {
                    epoch: pod.epoch(),
                    gone,
                })
                .await;
        }
    }

    /// Cuts the tunnels to peers that the trust in force no longer supports.
    pub async fn judge(&self) {
        for inbox in &self.inboxes {
            let _ = inbox.send(Job::Judge).await;
        }
    }

    /// Closes every tunnel to other nodes, each after its last stream;
    /// [`Shared::tunnels_ended`] tells when that is done.
    pub async fn close_tunnels(&self, shared: &Arc<Shared>) {
        for inbox in &self.inboxes {
            let _ = inbox.send(Job::Close(shared.open_tunnel())).await;
        }
    }

    /// How many tunnels to other nodes there are. Blocks for a moment; a worker
    /// that is too busy to answer is left out.
    pub fn tunnels(&self) -> usize {
        let (answer, answers) = std_mpsc::sync_channel(self.inboxes.len());
        for inbox in &self.inboxes {
            drop(inbox.try_send(Job::Count(answer.clone())));
        }
        drop(answer);
        let deadline = Instant::now() + COUNT_TIMEOUT;
        let next = || answers.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        std::iter::from_fn(|| next().ok())
            .map(|stats| stats.tunnels)
            .sum()
    }
}

async fn run(worker: Rc<Worker>, mut queue: mpsc::Receiver<Job>) {
    while let Some(job) = queue.recv().await {
        match job {
            Job::Listen(pod) => {
                tokio::task::spawn_local(accept::accept(Rc::clone(&worker), pod));
            }
            Job::Serve(pod, accepted) => {
                tokio::task::spawn_local(accept::serve(Rc::clone(&worker), pod, accepted));
            }
            Job::Forget { epoch, gone } => worker.tunnels.forget(epoch, gone),
            Job::Judge => worker.tunnels.judge(&worker.shared.trust.current()),
            Job::Close(open) => {
                let worker = Rc::clone(&worker);
                tokio::task::spawn_local(async move {
                    worker.tunnels.close().await;
                    drop(open);
                });
            }
            Job::Count(answer) => drop(answer.try_send(worker.tunnels.stats())),
        }
    }
}
