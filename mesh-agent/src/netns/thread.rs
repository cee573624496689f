//! The threads that enter pods' network namespaces, and the queues to them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::{CloneFlags, setns};
use tokio::sync::{mpsc, oneshot};

/// Jobs waiting for the thread; more make the callers wait.
const QUEUE: usize = 1024;

type Job = Box<dyn FnOnce() + Send>;

/// The agent's namespace threads, by the work that they do. A dump of the machine's
/// connection table takes as long as the table is large, so it has a thread of its own: no
/// connection waits behind it for a socket.
#[derive(Clone, Debug)]
pub struct NetnsThreads {
    /// Opens listeners and sockets, microseconds each.
    pub open: NetnsThread,
    /// Lists sockets and resets them (sock_diag(7)).
    pub sockets: NetnsThread,
}

impl NetnsThreads {
    /// Starts both.
    ///
    /// # Errors
    /// As [`NetnsThread::start`].
    pub fn start() -> io::Result<Self> {
        Ok(Self {
            open: NetnsThread::start()?,
            sockets: NetnsThread::start()?,
        })
    }
}

/// A handle to the thread that enters network namespaces. Cheap to clone; the
/// thread ends with the last handle.
#[derive(Clone, Debug)]
pub struct NetnsThread {
    jobs: mpsc::Sender<Job>,
}

/// The thread could not enter the namespace, or has ended.
#[derive(Debug, thiserror::Error)]
pub enum NetnsGone {
    /// `setns(2)` failed.
    #[error("cannot enter the pod's network namespace: {0} (the agent needs CAP_SYS_ADMIN)")]
    Enter(#[source] io::Error),
    /// The thread has ended: the agent is shutting down.
    #[error("the namespace thread has ended")]
    Ended,
}

impl From<NetnsGone> for io::Error {
    fn from(error: NetnsGone) -> Self {
        io::Error::other(error)
    }
}

impl NetnsThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the agent's own namespace cannot be opened or no thread be made.
    pub fn start() -> io::Result<Self> {
        let home = OwnedFd::from(std::fs::File::open("/proc/thread-self/ns/net")?);
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        std::thread::Builder::new().name("netns".into()).spawn(move || {
            while let Some(job) = queue.blocking_recv() {
                job();
                // Going home lets a deleted pod's namespace die. Should it fail, the next job
                // enters its own namespace all the same.
                if let Err(error) = setns(&home, CloneFlags::CLONE_NEWNET) {
                    tracing::error!(%error, "the namespace thread cannot leave a pod's namespace");
                }
            }
        })?;
        Ok(Self { jobs })
    }

    /// Runs `work` inside `netns` and returns what it returned.
    ///
    /// # Errors
    /// [`NetnsGone`] when the namespace cannot be entered.
    pub async fn run<T: Send + 'static>(
        &self,
        netns: BorrowedFd<'_>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NetnsGone> {
        let netns = netns.try_clone_to_owned().map_err(NetnsGone::Enter)?;
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move || {
            let result = setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)
                .map(|()| work())
                .map_err(|errno| NetnsGone::Enter(errno.into()));
            // Nobody waits any more when the caller was cancelled.
            let _ = answer.send(result);
        });
        self.jobs.send(job).await.map_err(|_| NetnsGone::Ended)?;
        answered.await.map_err(|_| NetnsGone::Ended)?
    }

    /// Queues `work` inside `netns` and does not wait for it. It is dropped
    /// without running when the queue is full or the namespace is gone.
    pub fn try_submit(&self, netns: OwnedFd, work: impl FnOnce() + Send + 'static) {
        let job: Job = Box::new(move || {
            if setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).is_ok() {
                work();
            }
        });
        drop(self.jobs.try_send(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_entered_is_an_error_and_the_thread_goes_on() {
        let thread = NetnsThread::start().unwrap();
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let result = thread.run(file.as_fd(), || 1).await;
        assert!(matches!(result, Err(NetnsGone::Enter(_))), "{result:?}");
        let again = thread.run(file.as_fd(), || 1).await;
        assert!(matches!(again, Err(NetnsGone::Enter(_))), "{again:?}");
    }
}
