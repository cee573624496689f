//! Where the pods of this node are on this machine: their cgroups and network namespaces, by
//! the pods' UIDs. Filled by the CNI plugin's server, which is told, and by looking.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::cgroups;
use super::namespaces::{Namespaces, NetnsId};

/// Where one pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// The pod's own cgroup (v2), which holds those of its containers.
    pub cgroup: PathBuf,
    /// A path to its network namespace.
    pub netns: PathBuf,
    /// Its addresses, as CNI told; empty for a pod that was found by looking.
    pub addresses: Vec<IpAddr>,
}

/// The node's pods, as far as this machine knows them.
pub struct Sandboxes {
    pods_cgroup: PathBuf,
    namespaces: Namespaces,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    /// What CNI said, by UID.
    told: HashMap<String, Told>,
    /// What [`Sandboxes::find`] last answered, by UID.
    found: HashMap<String, Found>,
}

#[derive(Clone)]
struct Told {
    netns: PathBuf,
    addresses: Vec<IpAddr>,
}

#[derive(Clone)]
struct Found {
    cgroup: PathBuf,
    netns: PathBuf,
    id: NetnsId,
}

impl Sandboxes {
    /// Those of the pods below `pods_cgroup`, a cgroup v2 directory.
    pub fn new(pods_cgroup: PathBuf) -> Arc<Self> {
        Arc::new(Self::seen_by(pods_cgroup, Namespaces::of_machine()))
    }

    fn seen_by(pods_cgroup: PathBuf, namespaces: Namespaces) -> Self {
        Self {
            pods_cgroup,
            namespaces,
            state: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// Where the pod with this `metadata.uid` is now; `None` while it has no cgroup, or no
    /// network namespace of its own can be found. The path of the namespace remains the same
    /// while it leads to the same namespace. Blocks: reads the cgroup tree and `/proc`.
    ///
    /// A pod of the host's network is never found: its namespace is the machine's.
    pub fn find(&self, uid: &str) -> Option<Sandbox> {
        let (told, before) = {
            let state = self.lock();
            (state.told.get(uid).cloned(), state.found.get(uid).cloned())
        };
        let now = self.look(uid, told.as_ref(), before.as_ref());
        let first = before.is_none();
        let Some(now) = now else {
            self.lock().found.remove(uid);
            return None;
        };
        self.lock().found.insert(uid.to_owned(), now.clone());
        if first {
            self.forget_gone();
        }
        let told = told.filter(|told| self.namespaces.id(&told.netns) == Some(now.id));
        Some(Sandbox {
            cgroup: now.cgroup,
            netns: now.netns,
            addresses: told.map_or_else(Vec::new, |told| told.addresses),
        })
    }

    /// The container runtime made a namespace for the pod (CNI ADD).
    pub fn told(&self, uid: &str, netns: PathBuf, addresses: Vec<IpAddr>) {
        let netns = by_run(netns);
        let told = Told { netns, addresses };
        self.lock().told.insert(uid.to_owned(), told);
        self.changed();
    }

    /// The container runtime takes the pod's namespace away (CNI DEL).
    pub fn withdrawn(&self, uid: &str) {
        {
            let mut state = self.lock();
            state.told.remove(uid);
            state.found.remove(uid);
        }
        self.changed();
    }

    /// As [`Sandboxes::withdrawn`], where the sandbox that ends may be an earlier one of the
    /// pod: container runtimes say again and again that a sandbox ended, at last without its
    /// namespace, and the pod may have another by then.
    pub(crate) fn left(&self, uid: &str, netns: Option<&Path>) {
        let told = self.lock().told.get(uid).map(|told| told.netns.clone());
        let Some(told) = told else {
            // Found by looking, if at all: whoever waits may look again.
            return self.changed();
        };
        let another = netns.is_none_or(|netns| by_run(netns.to_owned()) != told);
        if !(another && told.exists()) {
            self.withdrawn(uid);
        }
    }

    /// Wakes when CNI told of a pod, or withdrew one: [`Sandboxes::find`] may answer otherwise.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn look(&self, uid: &str, told: Option<&Told>, before: Option<&Found>) -> Option<Found> {
        let known = before.filter(|before| before.cgroup.is_dir());
        let cgroup = match known {
            Some(known) => known.cgroup.clone(),
            None => cgroups::of_pod(&self.pods_cgroup, uid)?,
        };
        let before = before.filter(|at| self.namespaces.id(&at.netns) == Some(at.id));
        let told = told.and_then(|told| Some((&told.netns, self.namespaces.id(&told.netns)?)));
        let (netns, id) = match (told, before) {
            // Told anew, of another namespace than the one before.
            (Some((netns, id)), Some(before)) if before.id != id => (netns.clone(), id),
            (_, Some(before)) => (before.netns.clone(), before.id),
            (Some((netns, id)), None) => (netns.clone(), id),
            (None, None) => {
                let pids = cgroups::processes(&cgroup);
                self.namespaces.of_processes(&pids)?
            }
        };
        Some(Found { cgroup, netns, id })
    }

    /// Drops what is remembered of pods that are gone, and of which nobody asks any more.
    fn forget_gone(&self) {
        let (found, told): (Vec<_>, Vec<_>) = {
            let state = self.lock();
            let found = state.found.iter();
            let told = state.told.iter();
            (
                found
                    .map(|(uid, at)| (uid.clone(), at.cgroup.clone()))
                    .collect(),
                told.map(|(uid, at)| (uid.clone(), at.netns.clone()))
                    .collect(),
            )
        };
        let gone = |(_, path): &(String, PathBuf)| !path.exists();
        let (found, told): (Vec<_>, Vec<_>) = (
            found.into_iter().filter(gone).collect(),
            told.into_iter().filter(gone).collect(),
        );
        let mut state = self.lock();
        for (uid, cgroup) in found {
            if state.found.get(&uid).is_some_and(|at| at.cgroup == cgroup) {
                state.found.remove(&uid);
            }
        }
        for (uid, netns) in told {
            if state.told.get(&uid).is_some_and(|at| at.netns == netns) {
                state.told.remove(&uid);
            }
        }
    }

    fn changed(&self) {
        self.changes
            .send_modify(|number| *number = number.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `/var/run/netns/x` as `/run/netns/x`: the one is a link to the other, and an agent in a
/// container has `/run/netns` alone.
pub(crate) fn by_run(netns: PathBuf) -> PathBuf {
    match netns.strip_prefix("/var/run") {
        Ok(rest) => Path::new("/run").join(rest),
        Err(_) => netns,
    }
}

#[cfg(test)]
mod tests;
