//! Which cgroup is the kubelet's, and whether its connections may pass as probes. What is
//! in that cgroup reaches every pod of the node whatever the policy, so it must hold the
//! kubelet and little else: neither pods nor this agent.
//!
//! Looked at when the agent starts and at every audit, since a kubelet that is restarted
//! may come back in a cgroup of another id. The link is pinned like those on the pods
//! cgroup: a liveness probe is not to fail because the agent is away.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};

use mesh_common::maps::{Probe, Tuple};
use mesh_common::names;

use super::error::{InterceptError, Tried};
use super::{Interceptor, cgroup, ip_of, links, sys};

/// Names of processes that are a kubelet (`comm`): Kubernetes' own, which k0s and RKE2 start
/// too, and what K3s and MicroK8s have in its place.
const NAMES: [&str; 4] = ["kubelet", "k3s-server", "k3s-agent", "kubelite"];

/// Cgroups deep below another are looked for up to here; systemd nests about ten.
const MAX_LEVELS: u32 = 64;

/// Whose probes reach the pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KubeletCgroup {
    /// Nobody's.
    #[default]
    Untrusted,
    /// Those of the processes in this cgroup v2 directory and below it.
    At(PathBuf),
    /// Those of this machine's kubelet, which is to be found.
    Find,
}

/// Why no probe is let through. Each names its cure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KubeletError {
    /// No process of such a name.
    #[error(
        "no kubelet runs here, as far as this agent sees: give its pod hostPID: true and the \
         host's /sys/fs/cgroup, or name the kubelet's control group with --kubelet-cgroup"
    )]
    NotFound,
    /// More than one.
    #[error(
        "several control groups hold a kubelet ({0}): name the right one with --kubelet-cgroup"
    )]
    Several(String),
    /// The cgroup of the pods or one above it.
    #[error(
        "{}, the kubelet's control group, holds the pods too: give the kubelet one of its own \
         (a systemd service has one)", .0.display()
    )]
    HoldsPods(PathBuf),
    /// Below the pods cgroup.
    #[error("{} is a pod's control group, not the kubelet's: name another", .0.display())]
    IsPod(PathBuf),
    /// The agent's, or one above it.
    #[error(
        "{}, the kubelet's control group, holds this agent too: run it in one of its own",
        .0.display()
    )]
    HoldsAgent(PathBuf),
    /// Nobody is in it.
    #[error("no process is in {}: is the kubelet running, and in this control group?", .0.display())]
    Empty(PathBuf),
    /// The operating system refused.
    #[error("{0}")]
    System(String),
}

impl From<InterceptError> for KubeletError {
    fn from(error: InterceptError) -> Self {
        Self::System(error.to_string())
    }
}

/// What is known of the kubelet.
#[derive(Debug, Default)]
pub(super) struct Known {
    link: Option<OwnedFd>,
    at: Option<Place>,
    error: Option<KubeletError>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    path: PathBuf,
    id: u64,
    /// The process by which it was found.
    pid: Option<u32>,
}

impl Interceptor {
    /// Finds the kubelet and sees to it that its probes, and nobody else's, are let
    /// through. Says why there are none, if so; that is logged when it changes.
    pub fn tend_kubelet(&self) -> Option<KubeletError> {
        if self.options.kubelet == KubeletCgroup::Untrusted {
            return None;
        }
        let mut known = self.kubelet();
        let found = self.find_kubelet(known.at.as_ref());
        let in_place = match (&found, &known.at) {
            (Ok(place), Some(at)) => place.id == at.id && self.kubelet_is_linked(&known, at.id),
            (Ok(_), None) => false,
            (Err(_), _) => known.link.is_none() && known.error.is_some(),
        };
        if !in_place {
            // Another agent that takes over sees to it itself.
            match self.repairs() {
                Ok(Some(_leave)) => self.put_kubelet(&mut known, found),
                Ok(None) => {}
                Err(error) => known.error = Some(error.into()),
            }
        } else if let Err(error) = found {
            if known.error.as_ref() != Some(&error) {
                tracing::warn!(%error, "the kubelet's probes are not let through");
            }
            known.error = Some(error);
        }
        known.error.clone()
    }

    /// Why no probe of the kubelet is let through, as of the last look; `None` also where
    /// none is to be.
    pub fn kubelet_error(&self) -> Option<KubeletError> {
        self.kubelet().error.clone()
    }

    /// The cgroup whose probes are let through.
    pub fn kubelet_cgroup(&self) -> Option<PathBuf> {
        let known = self.kubelet();
        known.link.as_ref()?;
        known.at.as_ref().map(|at| at.path.clone())
    }

    /// Whether this connection of a pod is a probe that the kubelet has opened.
    pub fn is_probe(&self, kubelet: SocketAddr, pod: SocketAddr) -> bool {
        let tuple = Tuple {
            kubelet: ip_of(kubelet.ip()),
            pod: ip_of(pod.ip()),
            kubelet_port: kubelet.port(),
            pod_port: pod.port(),
        };
        let found = sys::lookup::<_, Probe>(self.maps.probes.as_fd(), &tuple);
        found.is_ok_and(|probe| probe.is_some())
    }

    /// The first look, under the lock of the pin directory: what an earlier agent has
    /// attached is taken over, or away.
    pub(super) fn first_look_at_kubelet(&self) -> Result<(), InterceptError> {
        if self.options.kubelet == KubeletCgroup::Untrusted {
            return links::remove(&links::kubelet_pin(&self.options.pin_dir));
        }
        let found = self.find_kubelet(None);
        self.put_kubelet(&mut self.kubelet(), found);
        Ok(())
    }

    fn kubelet_is_linked(&self, known: &Known, id: u64) -> bool {
        let Some(link) = known.link.as_ref() else {
            return false;
        };
        let ours = self.programs.get(names::KUBELET_OPS).ok();
        let ours = ours.and_then(|program| sys::prog_info(program).ok());
        let pinned = links::pinned_link(&links::kubelet_pin(&self.options.pin_dir));
        sys::link_info(link.as_fd()).is_ok_and(|info| {
            info.cgroup_id == id
                && pinned == Some(info.id)
                && ours.is_some_and(|program| program.id == info.prog_id)
        })
    }

    /// Attaches the program to where the kubelet was found, and to nothing else.
    fn put_kubelet(&self, known: &mut Known, found: Result<Place, KubeletError>) {
        let held = known.link.take();
        let kept = found.and_then(|place| {
            let pinned = links::attach_to_kubelet(
                &self.programs,
                &self.options,
                &place.path,
                place.id,
                held.as_ref().map(AsFd::as_fd),
            );
            Ok((pinned?, place))
        });
        match kept {
            Ok((link, place)) => {
                tracing::info!(cgroup = %place.path.display(), "the kubelet's probes are let through");
                *known = Known {
                    link: Some(link),
                    at: Some(place),
                    error: None,
                };
            }
            Err(error) => {
                if let Some(held) = held
                    && let Err(error) = links::detach(held.as_fd())
                {
                    tracing::error!(%error, "cannot detach from the kubelet's cgroup");
                }
                if let Err(error) = links::remove(&links::kubelet_pin(&self.options.pin_dir)) {
                    tracing::error!(%error, "cannot remove the link to the kubelet's cgroup");
                }
                tracing::warn!(%error, "the kubelet's probes are not let through");
                *known = Known {
                    link: None,
                    at: None,
                    error: Some(error),
                };
            }
        }
    }

    fn find_kubelet(&self, last: Option<&Place>) -> Result<Place, KubeletError> {
        let place = match &self.options.kubelet {
            KubeletCgroup::At(path) => Place {
                id: cgroup::id(path)?,
                path: path.clone(),
                pid: None,
            },
            KubeletCgroup::Find => match last.filter(|last| is_still_there(last)) {
                Some(last) => last.clone(),
                None => self.search_kubelet()?,
            },
            KubeletCgroup::Untrusted => return Err(KubeletError::NotFound),
        };
        check(&place, &self.options.pods_cgroup, &self.agent_cgroup)?;
        Ok(place)
    }

    fn search_kubelet(&self) -> Result<Place, KubeletError> {
        let pids = kubelets(Path::new("/proc"));
        if pids.is_empty() {
            return Err(KubeletError::NotFound);
        }
        let mount = super::cgroup2_mount().tried(|| "read the mount table".to_owned())?;
        let mount = mount.ok_or(KubeletError::NotFound)?;
        let pods = cgroup::id(&self.options.pods_cgroup)?;
        let homes = cgroup::homes(&mount, &pids, Some(pods))
            .tried(|| format!("look for the kubelet below {}", mount.display()))?;
        one(homes)
    }
}

impl Interceptor {
    fn kubelet(&self) -> MutexGuard<'_, Known> {
        self.kubelet.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one cgroup that they are in.
fn one(homes: Vec<(u32, PathBuf)>) -> Result<Place, KubeletError> {
    let mut homes = homes.into_iter();
    let (pid, path) = homes.next().ok_or(KubeletError::NotFound)?;
    let others: Vec<_> = homes
        .map(|(_, other)| other)
        .filter(|other| *other != path)
        .collect();
    if !others.is_empty() {
        let all = std::iter::once(&path).chain(&others);
        let all: Vec<_> = all.map(|path| path.display().to_string()).collect();
        return Err(KubeletError::Several(all.join(", ")));
    }
    let id = cgroup::id(&path)?;
    let pid = Some(pid);
    Ok(Place { path, id, pid })
}

/// Whether the process is in the cgroup still, and that is the same one.
fn is_still_there(place: &Place) -> bool {
    let same = cgroup::id(&place.path).is_ok_and(|id| id == place.id);
    let holds = |pid| cgroup::holds(&place.path, &[pid]).is_ok_and(|found| !found.is_empty());
    same && place.pid.is_some_and(holds)
}

/// Whether it may be trusted to hold the kubelet and nothing that it probes.
fn check(place: &Place, pods: &Path, agent: &Path) -> Result<(), KubeletError> {
    let path = || place.path.clone();
    let within = |inner: &Path, outer: u64| -> Result<bool, InterceptError> {
        let below = cgroup::depth_below(inner, outer, MAX_LEVELS);
        let below = below.tried(|| format!("walk up from {}", inner.display()))?;
        Ok(below.is_some() || cgroup::id(inner)? == outer)
    };
    if within(pods, place.id)? {
        return Err(KubeletError::HoldsPods(path()));
    }
    if within(&place.path, cgroup::id(pods)?)? {
        return Err(KubeletError::IsPod(path()));
    }
    if within(agent, place.id)? {
        return Err(KubeletError::HoldsAgent(path()));
    }
    let events = fs::read_to_string(place.path.join("cgroup.events"))
        .tried(|| format!("look into {}", place.path.display()))?;
    match events.lines().any(|line| line == "populated 1") {
        true => Ok(()),
        false => Err(KubeletError::Empty(path())),
    }
}

/// Root's processes with a kubelet's name. Anybody can give a process a name, so a name
/// alone tells nothing; and who owns its files in /proc can be any user's choice too.
fn kubelets(proc: &Path) -> Vec<u32> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| is_kubelet(&proc.join(pid.to_string())).unwrap_or(false))
        .collect()
}

/// An error for a process that has ended since.
fn is_kubelet(process: &Path) -> io::Result<bool> {
    let name = fs::read_to_string(process.join("comm"))?;
    if !NAMES.contains(&name.trim_end()) {
        return Ok(false);
    }
    let status = fs::read_to_string(process.join("status"))?;
    // proc_pid_status(5): real, effective, saved set and filesystem uid.
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    Ok(uids.is_some_and(|uids| uids.split_whitespace().all(|uid| uid == "0")))
}

#[cfg(test)]
mod tests;
