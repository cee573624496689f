//! inotify for a tokio runtime. What a change is, and when it has settled, is for
//! those who watch: the folder source and [`crate::ca`]'s certificates in files.
#![expect(
    unsafe_code,
    reason = "AsyncFd::register trusts its caller with the descriptor"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// One inotify instance and its watches.
pub(crate) struct Events(AsyncFd<Fd>);

impl Events {
    /// To be called in a tokio runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // SAFETY: `Fd` owns the descriptor, hands out the same one every time, and
        // closes it only when the `AsyncFd` is dropped, after it has deregistered.
        let inotify = unsafe { AsyncFd::register(Fd(inotify)) }?;
        Ok(Self(inotify))
    }

    /// Watches a path; the same one again has the same descriptor.
    pub(crate) fn add(&self, path: &Path, mask: AddWatchFlags) -> io::Result<WatchDescriptor> {
        Ok(self.0.get_ref().0.add_watch(path, mask)?)
    }

    /// Ends a watch, unless the kernel has already.
    pub(crate) fn remove(&self, watch: WatchDescriptor) {
        let _ = self.0.get_ref().0.rm_watch(watch);
    }

    /// What has happened and was not read yet. Never waits.
    pub(crate) fn take(&self) -> Vec<InotifyEvent> {
        let mut all = Vec::new();
        loop {
            match self.0.get_ref().0.read_events() {
                Ok(events) => all.extend(events),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return all,
                Err(error) => {
                    tracing::error!(%error, "reading inotify events failed");
                    return all;
                }
            }
        }
    }

    /// Waits for something to [`take`](Self::take), or for a moment.
    pub(crate) async fn wait(&self, until: Option<Instant>) {
        let readable = self.0.readable();
        let woken = match until {
            None => Some(readable.await),
            Some(until) => tokio::time::timeout_at(until, readable).await.ok(),
        };
        // Before the events are read, so that one that comes meanwhile wakes again.
        if let Some(Ok(mut guard)) = woken {
            guard.clear_ready();
        }
    }
}

/// [`AsyncFd`] wants the raw number, nix's type gives the borrowed form.
struct Fd(Inotify);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}
