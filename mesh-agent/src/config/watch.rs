//! Tells when the folder may have changed, by inotify, once the change has
//! settled. Knows nothing of what is in the files. Used by the folder source.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InotifyEvent, WatchDescriptor};
use tokio::time::Instant;

use super::cache::is_config_name;
use super::inotify::Events;

/// A change has settled when nothing more has happened for this long...
const QUIET: Duration = Duration::from_millis(30);
/// ...and in any case this long after it began.
const AT_MOST: Duration = Duration::from_millis(500);
/// How often to look for a directory that is gone, since its parent may be too.
const RETRY: Duration = Duration::from_secs(1);

/// The link that a mounted ConfigMap switches to its new version.
const CONFIG_MAP_DATA: &str = "..data";

/// A watched directory, followed when another takes its name.
pub(super) struct Watch {
    inotify: Events,
    dir: PathBuf,
    /// `None` while the directory is gone.
    of_dir: Option<WatchDescriptor>,
    /// `None` also when `dir` has no parent in its name.
    of_parent: Option<WatchDescriptor>,
    change: Option<Change>,
}

/// A change that has not been told yet.
struct Change {
    /// When to tell it at the latest.
    latest: Instant,
    last_event: Instant,
    /// Files written to and not yet closed.
    being_written: HashSet<OsString>,
}

impl Watch {
    /// Watches `dir`; the first [`changed`](Self::changed) returns at once.
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        let mut watch = Self {
            inotify: Events::new()?,
            dir: std::path::absolute(dir)?,
            of_dir: None,
            of_parent: None,
            change: None,
        };
        watch.add_missing_watches()?;
        watch.note_change().latest = Instant::now();
        Ok(watch)
    }

    /// Waits until the directory or a file in it may have changed. May be dropped at
    /// any time without losing a change.
    pub(super) async fn changed(&mut self) {
        loop {
            self.take_events();
            match self.add_missing_watches() {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let dir = self.dir.display();
                    tracing::warn!(%dir, %error, "cannot watch the configuration directory");
                }
                _ => {}
            }
            let now = Instant::now();
            let due = self.change.as_ref().map(Change::due);
            if due.is_some_and(|due| due <= now) {
                self.change = None;
                return;
            }
            let retry = self.of_dir.is_none().then(|| now + RETRY);
            let wake = due.into_iter().chain(retry).min();
            self.inotify.wait(wake).await;
        }
    }

    fn add_missing_watches(&mut self) -> io::Result<()> {
        let Self { inotify, dir, .. } = self;
        if self.of_parent.is_none()
            && let (Some(parent), Some(_)) = (dir.parent(), dir.file_name())
        {
            self.of_parent = inotify.add(parent, parent_events()).ok();
        }
        if self.of_dir.is_none() {
            self.of_dir = Some(inotify.add(dir, dir_events())?);
            self.note_change();
        }
        Ok(())
    }

    fn take_events(&mut self) {
        for event in self.inotify.take() {
            self.take(event);
        }
    }

    fn take(&mut self, event: InotifyEvent) {
        let mask = event.mask;
        let lost = AddWatchFlags::IN_IGNORED
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_UNMOUNT;
        let name = event.name.as_deref();
        if mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            self.note_change();
        } else if Some(event.wd) == self.of_dir {
            if mask.intersects(lost) {
                self.drop_dir_watch();
            } else if let Some(name) = name.filter(|name| concerns_us(name)) {
                self.note_file(name, mask);
            }
        } else if Some(event.wd) == self.of_parent {
            if mask.intersects(lost) {
                self.of_parent = None;
            } else if name.is_some() && name == self.dir.file_name() {
                self.drop_dir_watch();
            }
        }
    }

    /// The name may now be another directory's.
    fn drop_dir_watch(&mut self) {
        if let Some(watch) = self.of_dir.take() {
            self.inotify.remove(watch);
        }
        self.note_change();
    }

    fn note_file(&mut self, name: &OsStr, mask: AddWatchFlags) {
        let change = self.note_change();
        if mask.contains(AddWatchFlags::IN_MODIFY) {
            change.being_written.insert(name.to_owned());
        } else if !mask.contains(AddWatchFlags::IN_ATTRIB) {
            change.being_written.remove(name);
        }
    }

    fn note_change(&mut self) -> &mut Change {
        let now = Instant::now();
        let change = self.change.get_or_insert_with(|| Change {
            latest: now + AT_MOST,
            last_event: now,
            being_written: HashSet::new(),
        });
        change.last_event = now;
        change
    }
}

impl Change {
    /// When to tell it, as things stand.
    fn due(&self) -> Instant {
        if self.being_written.is_empty() {
            self.latest.min(self.last_event + QUIET)
        } else {
            self.latest
        }
    }
}

fn concerns_us(name: &OsStr) -> bool {
    is_config_name(name) || name == CONFIG_MAP_DATA
}

fn dir_events() -> AddWatchFlags {
    parent_events()
        | AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_ATTRIB
}

fn parent_events() -> AddWatchFlags {
    AddWatchFlags::IN_ONLYDIR
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn a_file_that_is_being_written_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(dir.path()).unwrap();
        watch.changed().await;
        let mut file = File::create(dir.path().join("a.yaml")).unwrap();
        file.write_all(b"kind:").unwrap();
        watch.take_events();
        let change = watch.change.as_ref().unwrap();
        assert_eq!(change.due(), change.latest);

        file.write_all(b" Pod").unwrap();
        drop(file);
        watch.take_events();
        let change = watch.change.as_ref().unwrap();
        assert_eq!(change.due(), change.last_event + QUIET);
    }

    #[tokio::test]
    async fn names_that_are_not_ours_are_no_change() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(dir.path()).unwrap();
        watch.changed().await;
        for name in [".a.yaml.swp", "a.yaml~", "notes.txt"] {
            fs::write(dir.path().join(name), "text").unwrap();
        }
        watch.take_events();
        assert!(watch.change.is_none());
        fs::write(dir.path().join("a.yaml"), "text").unwrap();
        watch.take_events();
        assert!(watch.change.is_some());
    }
}
