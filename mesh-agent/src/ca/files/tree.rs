//! Tells whose files have changed, by inotify on the directory, the namespaces'
//! directories in it and the workloads' folders in those, once a change has settled.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InotifyEvent, WatchDescriptor};
use tokio::time::Instant;

use super::FileError;
use super::changes::Workload;
use super::folder;
use crate::config::inotify::Events;

/// A change has settled when nothing more has happened to the folder for this long...
const QUIET: Duration = Duration::from_millis(30);
/// ...and in any case this long after it began.
const AT_MOST: Duration = Duration::from_millis(500);
/// How often to look again for a directory that is gone or cannot be watched.
const RETRY: Duration = Duration::from_secs(1);

/// The link that a Kubernetes volume switches to its new version.
const DATA: &str = "..data";

/// The watched directories.
pub(super) struct Tree {
    events: Events,
    dir: PathBuf,
    /// Several places can be one directory, by links.
    watched: HashMap<WatchDescriptor, BTreeSet<Place>>,
    folders: BTreeMap<Workload, WatchDescriptor>,
    changes: BTreeMap<Workload, Change>,
    /// When to look through the directories again.
    rescan: Option<Instant>,
}

/// What a watch is on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// What the directory is in.
    Parent,
    /// The directory or a namespace's: what comes and goes there can mean other
    /// folders.
    Above,
    Folder(Workload),
}

/// A change that has not been told yet.
struct Change {
    latest: Instant,
    last_event: Instant,
    /// Files written to and not yet closed.
    being_written: HashSet<OsString>,
}

impl Tree {
    /// Watches `dir`. What is there already is no change.
    pub(super) fn open(dir: &Path) -> Result<Self, FileError> {
        let directory = |source| FileError::Directory {
            dir: dir.to_owned(),
            source,
        };
        let watch = |source| FileError::Watch {
            dir: dir.to_owned(),
            source,
        };
        std::fs::read_dir(dir).map_err(directory)?;
        let mut tree = Self {
            events: Events::new().map_err(watch)?,
            dir: std::path::absolute(dir).map_err(directory)?,
            watched: HashMap::new(),
            folders: BTreeMap::new(),
            changes: BTreeMap::new(),
            rescan: None,
        };
        tree.scan().map_err(watch)?;
        tree.changes.clear();
        Ok(tree)
    }

    /// Waits until files of these workloads have changed. May be dropped at any
    /// time without losing a change.
    pub(super) async fn changed(&mut self) -> BTreeSet<Workload> {
        loop {
            for event in self.events.take() {
                self.note(event);
            }
            let now = Instant::now();
            if self.rescan.is_some_and(|due| due <= now) {
                self.rescan = None;
                if let Err(error) = self.scan() {
                    let dir = self.dir.display();
                    tracing::warn!(%dir, %error, "cannot watch the directory of certificates");
                    self.rescan = Some(now + RETRY);
                }
            }
            let settled: BTreeSet<Workload> = self
                .changes
                .extract_if(.., |_, change| change.due() <= now)
                .map(|(workload, _)| workload)
                .collect();
            if !settled.is_empty() {
                return settled;
            }
            let due = self.changes.values().map(Change::due);
            self.events.wait(due.chain(self.rescan).min()).await;
        }
    }

    fn note(&mut self, event: InotifyEvent) {
        let mask = event.mask;
        let lost = AddWatchFlags::IN_IGNORED
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_UNMOUNT;
        if mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            for workload in self.folders.keys() {
                change(&mut self.changes, workload);
            }
            self.rescan = Some(Instant::now());
            return;
        }
        let name = event.name.as_deref();
        for place in self.watched.get(&event.wd).into_iter().flatten() {
            let other_folders = match (place, name) {
                (Place::Folder(workload), Some(name)) if concerns_us(name) => {
                    change(&mut self.changes, workload).note_file(name, mask);
                    false
                }
                (Place::Folder(_), _) => false,
                (Place::Above, _) => mask.intersects(entries()),
                (Place::Parent, name) => name.is_some() && name == self.dir.file_name(),
            };
            if other_folders {
                self.rescan = Some(Instant::now());
            }
        }
        if mask.intersects(lost) {
            self.forget(event.wd);
        }
    }

    /// Looks which folders there are now, and watches them. One that came, went, or
    /// is another than before has changed.
    fn scan(&mut self) -> io::Result<()> {
        let mut watched = HashMap::new();
        if let Some(parent) = self.dir.parent() {
            self.watch(parent, Place::Parent, &mut watched)?;
        }
        if self.watch(&self.dir, Place::Above, &mut watched)?.is_none() {
            self.rescan = Some(Instant::now() + RETRY);
        }
        let mut folders = BTreeMap::new();
        for (namespace, path) in directories(&self.dir)? {
            self.watch(&path, Place::Above, &mut watched)?;
            for (service_account, path) in directories(&path)? {
                let workload = Workload {
                    namespace: namespace.as_str().into(),
                    service_account: service_account.as_str().into(),
                };
                let place = Place::Folder(workload.clone());
                if let Some(watch) = self.watch(&path, place, &mut watched)? {
                    folders.insert(workload, watch);
                }
            }
        }
        let was = std::mem::replace(&mut self.folders, folders);
        for workload in was.keys().chain(self.folders.keys()) {
            if was.get(workload) != self.folders.get(workload) {
                change(&mut self.changes, workload);
            }
        }
        let was = std::mem::replace(&mut self.watched, watched);
        for watch in was.into_keys() {
            if !self.watched.contains_key(&watch) {
                self.events.remove(watch);
            }
        }
        Ok(())
    }

    /// Nothing if the directory has gone meanwhile.
    fn watch(
        &self,
        path: &Path,
        place: Place,
        watched: &mut HashMap<WatchDescriptor, BTreeSet<Place>>,
    ) -> io::Result<Option<WatchDescriptor>> {
        match self.events.add(path, interesting()) {
            Ok(watch) => {
                watched.entry(watch).or_default().insert(place);
                Ok(Some(watch))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn forget(&mut self, watch: WatchDescriptor) {
        self.events.remove(watch);
        for place in self.watched.remove(&watch).into_iter().flatten() {
            if let Place::Folder(workload) = place {
                self.folders.remove(&workload);
                change(&mut self.changes, &workload);
            }
        }
        self.rescan = Some(Instant::now());
    }
}

/// The change of a workload's files that is being waited for, begun if there is none.
fn change<'a>(changes: &'a mut BTreeMap<Workload, Change>, workload: &Workload) -> &'a mut Change {
    let now = Instant::now();
    let change = changes.entry(workload.clone()).or_insert_with(|| Change {
        latest: now + AT_MOST,
        last_event: now,
        being_written: HashSet::new(),
    });
    change.last_event = now;
    change
}

impl Change {
    fn note_file(&mut self, name: &OsStr, mask: AddWatchFlags) {
        if mask.contains(AddWatchFlags::IN_MODIFY) {
            self.being_written.insert(name.to_owned());
        } else if !mask.contains(AddWatchFlags::IN_ATTRIB) {
            self.being_written.remove(name);
        }
    }

    fn due(&self) -> Instant {
        if self.being_written.is_empty() {
            self.latest.min(self.last_event + QUIET)
        } else {
            self.latest
        }
    }
}

/// The directories in a directory, links to some included, hidden ones and such
/// with names that are no text left out. None if it is gone.
fn directories(dir: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if !name.starts_with('.') && entry.path().is_dir() {
            found.push((name, entry.path()));
        }
    }
    Ok(found)
}

fn concerns_us(name: &OsStr) -> bool {
    [folder::CHAIN, folder::KEY, folder::ROOTS, DATA]
        .iter()
        .any(|ours| name == *ours)
}

/// What comes and goes in a directory.
fn entries() -> AddWatchFlags {
    AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_MOVED_TO
}

fn interesting() -> AddWatchFlags {
    entries()
        | AddWatchFlags::IN_ONLYDIR
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_ATTRIB
}
