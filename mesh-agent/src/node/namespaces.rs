//! Network namespaces as paths: which one a path leads to, which one the processes of a pod
//! are in, and which are never a pod's. Called by the sandboxes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Which namespace it is: device and inode of its file, unique while it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NetnsId(u64, u64);

/// Where this machine shows its namespaces.
pub(super) struct Namespaces {
    proc: PathBuf,
    /// Where container runtimes keep namespaces by name.
    named: PathBuf,
}

impl Namespaces {
    /// This machine's.
    pub(super) fn of_machine() -> Self {
        Self::at(Path::new("/proc"), Path::new("/run/netns"))
    }

    /// Those under other directories than `/proc` and `/run/netns`.
    pub(super) fn at(proc: &Path, named: &Path) -> Self {
        Self {
            proc: proc.to_owned(),
            named: named.to_owned(),
        }
    }

    /// The namespace that `path` leads to; `None` when there is nothing, or it is the
    /// agent's own or the machine's: to enrol that would hand the agent everything that the
    /// machine itself says.
    pub(super) fn id(&self, path: &Path) -> Option<NetnsId> {
        let id = id(path)?;
        let machines = ["self", "1"].map(|process| self.of_process(process));
        (!machines.iter().any(|path| self::id(path) == Some(id))).then_some(id)
    }

    /// The namespace of a pod's processes, by a path that outlives most of them. The oldest
    /// decides: it is the one that holds the pod's namespaces, or was started with them.
    pub(super) fn of_processes(&self, pids: &[u32]) -> Option<(PathBuf, NetnsId)> {
        let oldest = pids
            .iter()
            .filter_map(|pid| Some((self.started(*pid)?, *pid)))
            .min()?;
        let path = self.of_process(&oldest.1.to_string());
        let id = self.id(&path)?;
        Some((self.name_of(id).unwrap_or(path), id))
    }

    fn of_process(&self, process: &str) -> PathBuf {
        self.proc.join(process).join("ns/net")
    }

    /// The path by which the container runtime keeps a namespace, where it does so: it is
    /// there until the sandbox ends, whatever becomes of the processes.
    fn name_of(&self, id: NetnsId) -> Option<PathBuf> {
        let mut entries = fs::read_dir(&self.named).ok()?.flatten();
        entries
            .find(|entry| self::id(&entry.path()) == Some(id))
            .map(|entry| entry.path())
    }

    /// When a process started, in clock ticks after boot: field 22 of `stat`
    /// (proc_pid_stat(5)), counted after the name, which may contain anything.
    fn started(&self, pid: u32) -> Option<u64> {
        let stat = fs::read_to_string(self.proc.join(pid.to_string()).join("stat")).ok()?;
        let (_, fields) = stat.rsplit_once(')')?;
        fields.split_whitespace().nth(19)?.parse().ok()
    }
}

fn id(path: &Path) -> Option<NetnsId> {
    let metadata = fs::metadata(path).ok()?;
    Some(NetnsId(metadata.dev(), metadata.ino()))
}
