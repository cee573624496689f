//! Connections of a pod that go around the agent, as the kernel lists its sockets.
//!
//! Listing walks the machine's whole table of connections once a family, so a periodic run
//! looks at a fifth of the pods, and at those where something else was at fault: the guard
//! drops such a connection's packets under STRICT whether or not it was found.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use super::Finding;
use super::ledger::Examined;
use crate::intercept::Interceptor;
use crate::intercept::sockdiag::{self, Bypass};
use crate::netns::NetnsThread;
use crate::proxy::Pod;

/// Runs between two looks at the sockets of one pod.
const IN_TURN: u64 = 5;

/// What was seen of each pod's sockets, by the pod's epoch.
#[derive(Default)]
pub(super) struct Sockets(Mutex<HashMap<u64, Scan>>);

#[derive(Clone, Default)]
struct Scan {
    /// The connections that were there at the first look: older than the enrolment.
    older: HashSet<u64>,
    /// Those of them that there were at the last look.
    shown: Vec<String>,
    /// What stood around the agent at the last look, and could not be cut.
    standing: Vec<Finding>,
}

impl Sockets {
    /// Whether it is this pod's turn, or it was never looked at.
    pub(super) fn is_due(&self, pod: &Pod, run: u64) -> bool {
        (run + pod.epoch()).is_multiple_of(IN_TURN) || !self.lock().contains_key(&pod.epoch())
    }

    /// Looks at the pod's sockets, and cuts what goes around the agent: under STRICT all,
    /// under PERMISSIVE what is newer than the enrolment and got through a gap. The kubelet's
    /// probes are meant to.
    pub(super) async fn examine(
        &self,
        kernel: &Arc<Interceptor>,
        thread: &NetnsThread,
        pod: &Pod,
        found: &mut Examined,
    ) {
        let known = self.lock().get(&pod.epoch()).cloned();
        let first = known.is_none();
        let mut scan = known.unwrap_or_default();
        let mut seen = match ask(thread, pod, sockdiag::bypassing).await {
            Ok(seen) => seen,
            Err(error) => {
                let text = format!("its sockets cannot be listed: {error}");
                return found.unknown = found.unknown.take().or(Some(text));
            }
        };
        seen.retain(|it| !kernel.is_probe(it.remote, it.local));
        if first {
            scan.older = seen.iter().map(|it| it.cookie).collect();
        }
        let older = match found.strict {
            true => HashSet::new(),
            false => scan.older.clone(),
        };
        let (stay, go): (Vec<_>, Vec<_>) =
            seen.into_iter().partition(|it| older.contains(&it.cookie));
        scan.older = stay.iter().map(|it| it.cookie).collect();
        scan.shown = stay
            .iter()
            .map(|it| format!("{} -> {}", it.local, it.remote))
            .collect();
        scan.standing = Vec::new();
        if !go.is_empty() {
            let kernel = Arc::clone(kernel);
            let cut = move |cgroup: &_, addresses: &_| {
                let spare = |it: &Bypass| {
                    older.contains(&it.cookie) || kernel.is_probe(it.remote, it.local)
                };
                sockdiag::destroy_unless(cgroup, addresses, spare)
            };
            match ask(thread, pod, cut).await {
                Ok(cut) => found.repaired.extend(cut.iter().map(finding)),
                Err(error) => scan.standing = go.iter().map(|it| uncut(it, &error)).collect(),
            }
        }
        self.lock().insert(pod.epoch(), scan);
        self.repeat(pod, found);
    }

    /// Says again what was found last.
    pub(super) fn repeat(&self, pod: &Pod, found: &mut Examined) {
        if let Some(scan) = self.lock().get(&pod.epoch()) {
            found.older.clone_from(&scan.shown);
            found.standing.extend(scan.standing.iter().cloned());
        }
    }

    /// Forgets the pods that are gone.
    pub(super) fn forget_all_but(&self, pods: &[(Arc<str>, Arc<Pod>)]) {
        let epochs: HashSet<u64> = pods.iter().map(|(_, pod)| pod.epoch()).collect();
        self.lock().retain(|epoch, _| epochs.contains(epoch));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Scan>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a question about sockets inside the pod's namespace.
async fn ask<T: Send + 'static>(
    thread: &NetnsThread,
    pod: &Pod,
    question: impl FnOnce(&std::path::Path, &[std::net::IpAddr]) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let workload = pod.workload();
    let local = workload.local.clone();
    let local = local.ok_or_else(|| io::Error::other("where it is is not known"))?;
    let addresses = workload.addresses.clone();
    let asked = move || question(&local.cgroup, &addresses);
    thread.run(pod.netns().as_fd(), asked).await?
}

fn finding(bypass: &Bypass) -> Finding {
    let (local, remote) = (bypass.local, bypass.remote);
    let text = format!("the connection {local} -> {remote} went around the agent");
    Finding::new("bypass", text)
}

fn uncut(bypass: &Bypass, error: &io::Error) -> Finding {
    let Finding { what, detail } = finding(bypass);
    Finding::new(what, format!("{detail}; it cannot be cut: {error}"))
}
