//! Tells when an authority's directory may have changed, by inotify. Agents and
//! `ca serve` wait on it, so that a revocation by another process counts at once.
#![expect(
    unsafe_code,
    reason = "AsyncFd::register trusts its caller with the descriptor"
)]

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::unix::AsyncFd;

use super::CaError;
use super::disk;
use super::layout::Layout;

/// How often to look for a directory that is gone: nothing tells when it is back.
const RETRY: Duration = Duration::from_secs(1);

/// Changes of an authority's directory.
pub struct Changes {
    inotify: AsyncFd<Fd>,
    layout: Layout,
    watched: HashMap<PathBuf, WatchDescriptor>,
    changed: bool,
}

impl Changes {
    pub(super) fn of(layout: &Layout) -> Result<Self, CaError> {
        let failed = |error: io::Error| disk::failed("watch", layout.path())(error);
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(|errno| failed(errno.into()))?;
        // SAFETY: `Fd` owns the descriptor, hands out the same one every time, and
        // closes it only when the `AsyncFd` is dropped, after it has deregistered.
        let inotify = unsafe { AsyncFd::register(Fd(inotify)) }.map_err(|e| failed(e.into()))?;
        let mut changes = Self {
            inotify,
            layout: layout.clone(),
            watched: HashMap::new(),
            changed: false,
        };
        if !changes.add_watches() {
            return Err(failed(io::Error::last_os_error()));
        }
        changes.changed = false;
        Ok(changes)
    }

    /// Completes when roots, lists or issuer may have changed since
    /// [`super::Authority::changes`] or the last time. May be dropped at any time
    /// without losing a change.
    pub async fn changed(&mut self) {
        loop {
            self.take_events();
            let whole = self.add_watches();
            if std::mem::take(&mut self.changed) {
                return;
            }
            let readable = self.inotify.readable();
            let woken = if whole {
                Some(readable.await)
            } else {
                tokio::time::timeout(RETRY, readable).await.ok()
            };
            // Before the events are read, so that one that comes meanwhile wakes again.
            if let Some(Ok(mut guard)) = woken {
                guard.clear_ready();
            }
        }
    }

    /// Watches what is there and is not watched yet, which is a change; tells
    /// whether the directory itself is.
    fn add_watches(&mut self) -> bool {
        let top = self.layout.path().to_owned();
        let issuers = self.layout.issuers();
        let mut wanted = vec![top.clone(), issuers.clone()];
        let names = disk::names(&issuers).unwrap_or_default();
        wanted.extend(names.into_iter().map(|name| issuers.join(name)));
        for dir in wanted {
            if self.watched.contains_key(&dir) {
                continue;
            }
            let events = AddWatchFlags::IN_ONLYDIR
                | AddWatchFlags::IN_MOVED_TO
                | AddWatchFlags::IN_MOVED_FROM
                | AddWatchFlags::IN_DELETE
                | AddWatchFlags::IN_CREATE
                | AddWatchFlags::IN_CLOSE_WRITE
                | AddWatchFlags::IN_DELETE_SELF
                | AddWatchFlags::IN_MOVE_SELF;
            if let Ok(watch) = self.inotify.get_ref().0.add_watch(&dir, events) {
                self.watched.insert(dir, watch);
                self.changed = true;
            }
        }
        self.watched.contains_key(&top)
    }

    fn take_events(&mut self) {
        loop {
            match self.inotify.get_ref().0.read_events() {
                Ok(events) => events.into_iter().for_each(|event| self.take(event)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(error) => {
                    tracing::error!(%error, "reading inotify events failed");
                    return;
                }
            }
        }
    }

    fn take(&mut self, event: InotifyEvent) {
        let lost = AddWatchFlags::IN_IGNORED
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_UNMOUNT;
        if event.mask.intersects(lost) {
            let inotify = &self.inotify.get_ref().0;
            self.watched.retain(|_, watch| *watch != event.wd);
            // Fails when the kernel has removed it already; a moved directory is
            // watched under its old name otherwise.
            let _ = inotify.rm_watch(event.wd);
            self.changed = true;
        }
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            self.changed = true;
        }
        // Not the journal, nor files that have not taken their name yet.
        let told = ["authority.json", "issuers", "crl.pem", "chain.pem"];
        if event
            .name
            .is_some_and(|name| told.iter().any(|known| name == *known))
        {
            self.changed = true;
        }
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes")
            .field("dir", &self.layout.path())
            .finish_non_exhaustive()
    }
}

/// [`AsyncFd`] wants the raw number, nix's type gives the borrowed form.
struct Fd(Inotify);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests;
