//! The files of the folder and their last good objects. Called by the folder
//! source whenever something in the directory may have changed; reads again only
//! the files that look different, and parses again only those that are.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::document::{self, Rejected};
use super::unread;
use crate::model::{Objects, Problem};

/// The longest file that is read: 16 MiB, room for some ten thousand pods. A longer
/// one is a mistake, which must not cost the agent its memory.
pub const MAX_FILE_BYTES: u64 = 16 << 20;

/// Timestamps closer than this to the moment of reading do not prove that a file is
/// unchanged: a second write may fall on the same tick of the file system's clock.
const CLOCK_TICK: Duration = Duration::from_secs(2);

/// What is known of every file.
pub(super) struct Cache {
    dir: PathBuf,
    files: BTreeMap<OsString, Entry>,
    /// Why the directory itself could not be listed the last time.
    unlistable: Option<Problem>,
    /// Whether it ever was.
    listed: bool,
}

/// What looking at all files came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Refresh {
    /// Anything is other than the last time.
    pub(super) different: bool,
    /// How many files had new contents.
    pub(super) parsed: usize,
}

#[derive(Default)]
struct Entry {
    /// How the file looked when it was read; `None` if it must be read again.
    stamp: Option<Stamp>,
    /// Of the text that `problems` are about.
    hash: Option<u64>,
    /// Of the last good version; without one, what must be feared of the file.
    objects: Objects,
    ever_good: bool,
    problems: Vec<Problem>,
}

/// Equal stamps, some time after the last change, mean equal contents.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Whether a directory entry is one of ours: `*.yaml`, `*.yml` or `*.json`, not hidden.
/// Editors' backups and locks (`x.yaml~`, `.#x.yaml`, `.x.yaml.swp`) are not.
pub(super) fn is_config_name(name: &OsStr) -> bool {
    let hidden = name.as_encoded_bytes().starts_with(b".");
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    !hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

impl Cache {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            files: BTreeMap::new(),
            unlistable: None,
            listed: false,
        }
    }

    /// Looks at every file, and reads those that may be new.
    pub(super) fn refresh(&mut self) -> Refresh {
        let mut outcome = Refresh::default();
        let names = match self.list() {
            Ok(names) => names,
            Err(error) => {
                let problem = Problem {
                    file: self.dir.clone(),
                    object: None,
                    field: String::new(),
                    message: format!("the directory cannot be read: {error}"),
                    cure: "put it back; until then everything stays as it was".to_owned(),
                    severity: crate::model::Severity::Error,
                };
                let known = self.unlistable.replace(problem.clone());
                outcome.different = known != Some(problem);
                return outcome;
            }
        };
        outcome.different = self.unlistable.take().is_some() || !self.listed;
        self.listed = true;
        let before = self.files.len();
        self.files.retain(|name, _| names.contains(name));
        outcome.different |= self.files.len() != before;
        for name in names {
            let path = self.dir.join(&name);
            let entry = self.files.remove(&name);
            let known = entry.is_some();
            let mut entry = entry.unwrap_or_default();
            let refreshed = entry.refresh(&path);
            outcome.parsed += usize::from(matches!(refreshed, Refreshed::Parsed));
            match refreshed {
                Refreshed::Same => {}
                Refreshed::Parsed | Refreshed::Unreadable => outcome.different = true,
                Refreshed::Gone => {
                    outcome.different |= known;
                    continue;
                }
            }
            self.files.insert(name, entry);
        }
        outcome
    }

    fn list(&self) -> io::Result<BTreeSet<OsString>> {
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            if is_config_name(&name) {
                names.insert(name);
            }
        }
        Ok(names)
    }

    /// The objects of every file.
    pub(super) fn objects(&self) -> impl Iterator<Item = &Objects> {
        self.files.values().map(|entry| &entry.objects)
    }

    /// Everything that is wrong with the files themselves.
    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        let files = self.files.values().flat_map(|entry| &entry.problems);
        self.unlistable.iter().chain(files)
    }

    /// Whether every file has a good version, present or past.
    pub(super) fn is_complete(&self) -> bool {
        self.listed && self.files.values().all(|entry| entry.ever_good)
    }
}

/// What looking at one file came to.
enum Refreshed {
    Same,
    Parsed,
    Unreadable,
    Gone,
}

impl Entry {
    fn refresh(&mut self, path: &Path) -> Refreshed {
        let metadata = match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => return Refreshed::Gone,
            Ok(metadata) => metadata,
            Err(error) => return self.unreadable(path, &error),
        };
        let stamp = Stamp::of(&metadata);
        if self.stamp == Some(stamp) {
            return Refreshed::Same;
        }
        let bytes = match read(path, &metadata) {
            Ok(bytes) => bytes,
            Err(error) => return self.unreadable(path, &error),
        };
        self.stamp = stamp.is_settled().then_some(stamp);
        let hash = hash(&bytes);
        if self.hash.replace(hash) == Some(hash) {
            return Refreshed::Same;
        }
        match std::str::from_utf8(&bytes) {
            Ok(text) => match document::read(path, text) {
                Ok(objects) => {
                    self.objects = objects;
                    self.ever_good = true;
                    self.problems.clear();
                }
                Err(rejected) => self.bad(rejected),
            },
            Err(error) => {
                let line = 1 + bytes[..error.valid_up_to()]
                    .iter()
                    .filter(|b| **b == b'\n')
                    .count();
                let mut problem = whole_file(path, "it is not UTF-8 text", "save it as UTF-8");
                problem.field = format!("line {line}");
                self.bad(anything(path, problem));
            }
        }
        Refreshed::Parsed
    }

    /// Keeps what was good. Without it, the policies that the file may hold count for
    /// the strictest that they might be.
    fn bad(&mut self, rejected: Rejected) {
        self.problems = rejected.problems;
        if !self.ever_good {
            self.objects.unread_policies = rejected.policies;
        }
    }

    fn unreadable(&mut self, path: &Path, error: &io::Error) -> Refreshed {
        // Deleted since it was listed, unless a link is left that leads nowhere.
        if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err() {
            return Refreshed::Gone;
        }
        let message = format!("it cannot be read: {error}");
        let problem = whole_file(path, &message, "make it a readable file, or remove it");
        self.stamp = None;
        self.hash = None;
        if self.problems == [problem.clone()] {
            return Refreshed::Same;
        }
        self.bad(anything(path, problem));
        Refreshed::Unreadable
    }
}

/// What must be feared of a file without a text.
fn anything(path: &Path, problem: Problem) -> Rejected {
    Rejected {
        problems: vec![problem],
        policies: unread::of_anything(path),
    }
}

fn whole_file(path: &Path, message: &str, cure: &str) -> Problem {
    Problem {
        file: path.to_owned(),
        object: None,
        field: String::new(),
        message: message.to_owned(),
        cure: format!("{cure}; until then the file's last good version stays in force"),
        severity: crate::model::Severity::Error,
    }
}

fn read(path: &Path, metadata: &Metadata) -> io::Result<Vec<u8>> {
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    // Should a FIFO have taken the file's place, opening it must not block.
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let limit = MAX_FILE_BYTES >> 20;
        return Err(io::Error::other(format!("it is longer than {limit} MiB")));
    }
    Ok(bytes)
}

/// Tells two versions of one file apart; not a defence against forgery, which
/// whoever writes the configuration has no need of.
fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs().cast_signed());
        let last = self.modified.0.max(self.changed.0);
        now.saturating_sub(last) > CLOCK_TICK.as_secs().cast_signed()
    }
}
