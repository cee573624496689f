//! What outlives the agent: the pin directory, its lock, the maps in it, and
//! taking all of it away again.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use mesh_common::maps::Meta;
use mesh_common::{ABI_VERSION, names};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::error::{InterceptError, Tried};
use super::{Options, device, links, sys};

/// The pinned maps that the agent reads or writes.
#[derive(Debug)]
pub(super) struct Maps {
    pub(super) pods: OwnedFd,
    pub(super) cgroups: OwnedFd,
    pub(super) destinations: OwnedFd,
    pub(super) client_of: OwnedFd,
    pub(super) clients: OwnedFd,
    pub(super) accepted: OwnedFd,
    pub(super) usage: OwnedFd,
    pub(super) listeners: OwnedFd,
    pub(super) agent_sockets: OwnedFd,
    pub(super) probes: OwnedFd,
    pub(super) devices: OwnedFd,
    pub(super) forwarded: OwnedFd,
    pub(super) counters: OwnedFd,
    pub(super) meta: OwnedFd,
    original: OwnedFd,
    peers: OwnedFd,
    budget: OwnedFd,
}

impl Maps {
    /// Opens the pins that loading has left.
    pub(super) fn open(pin_dir: &Path) -> Result<Self, InterceptError> {
        let open = |name: &'static str| {
            let path = pin_dir.join(names::MAPS_DIR).join(name);
            sys::open_pin(&path)
                .tried(|| format!("open the map {}", path.display()))?
                .ok_or(InterceptError::Object(name))
        };
        Ok(Self {
            pods: open(names::PODS)?,
            cgroups: open(names::CGROUPS)?,
            destinations: open(names::DESTINATIONS)?,
            client_of: open(names::CLIENT_OF)?,
            clients: open(names::CLIENTS)?,
            accepted: open(names::ACCEPTED)?,
            usage: open(names::USAGE)?,
            listeners: open(names::LISTENERS)?,
            agent_sockets: open(names::AGENT_SOCKETS)?,
            probes: open(names::PROBES)?,
            devices: open(names::DEVICES)?,
            forwarded: open(names::FORWARDED)?,
            counters: open(names::COUNTERS)?,
            meta: open(names::META)?,
            original: open(names::ORIGINAL)?,
            peers: open(names::PEERS)?,
            budget: open(names::EVENT_BUDGET)?,
        })
    }

    /// Every pinned map, by the name of its pin.
    pub(super) fn all(&self) -> [(&'static str, BorrowedFd<'_>); names::PINNED_MAPS.len()] {
        [
            (names::PODS, self.pods.as_fd()),
            (names::CGROUPS, self.cgroups.as_fd()),
            (names::DESTINATIONS, self.destinations.as_fd()),
            (names::ORIGINAL, self.original.as_fd()),
            (names::CLIENT_OF, self.client_of.as_fd()),
            (names::CLIENTS, self.clients.as_fd()),
            (names::ACCEPTED, self.accepted.as_fd()),
            (names::PEERS, self.peers.as_fd()),
            (names::USAGE, self.usage.as_fd()),
            (names::LISTENERS, self.listeners.as_fd()),
            (names::AGENT_SOCKETS, self.agent_sockets.as_fd()),
            (names::PROBES, self.probes.as_fd()),
            (names::DEVICES, self.devices.as_fd()),
            (names::FORWARDED, self.forwarded.as_fd()),
            (names::COUNTERS, self.counters.as_fd()),
            (names::EVENT_BUDGET, self.budget.as_fd()),
            (names::META, self.meta.as_fd()),
        ]
    }

    /// The single entry of the meta map.
    pub(super) fn meta(&self) -> Result<Meta, InterceptError> {
        read_meta(&self.meta)
    }

    /// Replaces the single entry of the meta map.
    pub(super) fn set_meta(&self, meta: &Meta) -> Result<(), InterceptError> {
        sys::update(self.meta.as_fd(), &0u32, meta).tried(|| "write the meta map".to_owned())
    }

    /// Writes version and cgroup into maps that are new, or whose cgroup is
    /// gone (see [`check`]).
    pub(super) fn claim(&self, pods_cgroup_id: u64) -> Result<(), InterceptError> {
        if self.meta()?.pods_cgroup_id == pods_cgroup_id {
            return Ok(());
        }
        self.set_meta(&Meta {
            pods_cgroup_id,
            abi_version: ABI_VERSION,
            pods_level: 0,
            depths: 0,
            reserved: 0,
        })
    }
}

/// The id of the map pinned at `path`; `None` when no map is, or none that can be opened.
pub(super) fn pinned_map(path: &Path) -> Option<u32> {
    let pin = sys::open_pin(path).ok().flatten()?;
    sys::map_id(pin.as_fd()).ok()
}

/// Pins the map, unless it is, in the place of whatever is pinned there.
pub(super) fn pin_map(map: BorrowedFd<'_>, path: &Path) -> Result<(), InterceptError> {
    let tried = || format!("pin the map {}", path.display());
    if pinned_map(path) != Some(sys::map_id(map).tried(tried)?) {
        gone(fs::remove_file(path)).tried(tried)?;
        sys::pin(map, path).tried(tried)?;
    }
    Ok(())
}

/// Makes the pin directory where it is absent and keeps other agents from
/// opening it while the lock is held.
pub(super) fn lock(pin_dir: &Path) -> Result<Flock<File>, InterceptError> {
    Flock::lock(open_dir(pin_dir)?, FlockArg::LockExclusive)
        .map_err(|(_, errno)| io::Error::from(errno))
        .tried(|| format!("lock {}", pin_dir.display()))
}

/// [`lock`] without waiting; `None` while another agent has it.
pub(super) fn try_lock(pin_dir: &Path) -> Result<Option<Flock<File>>, InterceptError> {
    match Flock::lock(open_dir(pin_dir)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => {
            Err(io::Error::from(errno)).tried(|| format!("lock {}", pin_dir.display()))
        }
    }
}

/// The pin directory, made where it is absent.
fn open_dir(pin_dir: &Path) -> Result<File, InterceptError> {
    let existing = pin_dir.ancestors().find(|path| path.exists());
    let on_bpffs = existing
        .and_then(|path| statfs(path).ok())
        .is_some_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC);
    if !on_bpffs {
        return Err(InterceptError::NotBpffs(pin_dir.to_owned()));
    }
    for directory in [names::MAPS_DIR, names::LINKS_DIR] {
        let path = pin_dir.join(directory);
        fs::create_dir_all(&path).tried(|| format!("make {}", path.display()))?;
    }
    File::open(pin_dir).tried(|| format!("open {}", pin_dir.display()))
}

/// Whether what is pinned can be taken over: same version, and attached to the
/// same cgroup or to one that is gone.
pub(super) fn check(options: &Options, pods_cgroup_id: u64) -> Result<(), InterceptError> {
    let path = options.pin_dir.join(names::MAPS_DIR).join(names::META);
    let meta = sys::open_pin(&path).tried(|| format!("open the map {}", path.display()))?;
    let Some(meta) = meta else {
        return Ok(());
    };
    let meta = read_meta(&meta)?;
    // Version 0: made by an agent that died before it wrote anything.
    if meta.abi_version != ABI_VERSION && meta.abi_version != 0 {
        return Err(InterceptError::AbiMismatch {
            pin_dir: options.pin_dir.clone(),
            found: meta.abi_version,
            expected: ABI_VERSION,
        });
    }
    if meta.pods_cgroup_id != pods_cgroup_id && links::any_attached(&options.pin_dir) {
        return Err(InterceptError::OtherPodsCgroup {
            pin_dir: options.pin_dir.clone(),
            pods_cgroup: options.pods_cgroup.clone(),
        });
    }
    Ok(())
}

fn read_meta(map: &OwnedFd) -> Result<Meta, InterceptError> {
    sys::lookup(map.as_fd(), &0u32)
        .tried(|| "read the meta map".to_owned())?
        .ok_or(InterceptError::Object(names::META))
}

/// Detaches every program and removes every pin below `pin_dir`, for good: pods
/// are no longer guarded. Nothing is an error that is gone already.
///
/// # Errors
/// The first thing that could not be removed; the rest is removed all the same.
pub fn remove_all(pin_dir: &Path) -> Result<(), InterceptError> {
    let mut first_error = Ok(());
    let mut keep = |result: Result<(), InterceptError>| {
        if first_error.is_ok() {
            first_error = result;
        }
    };
    // First: the links lead to the namespaces in which the devices are.
    keep(device::remove_all(pin_dir));
    let links_dir = pin_dir.join(names::LINKS_DIR);
    for path in entries(&links_dir) {
        keep(links::remove(&path));
    }
    let maps_dir = pin_dir.join(names::MAPS_DIR);
    for path in entries(&maps_dir) {
        keep(gone(fs::remove_file(&path)).tried(|| format!("remove {}", path.display())));
    }
    for path in [&links_dir, &maps_dir, pin_dir] {
        keep(gone(fs::remove_dir(path)).tried(|| format!("remove {}", path.display())));
    }
    first_error
}

/// The paths in a directory, none when it cannot be read.
pub(super) fn entries(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.flatten().map(|entry| entry.path()).collect()
}

/// Takes "not found" for success.
pub(super) fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
