//! The pods that the kernel knows, read from the kernel: for status, for
//! releasing what an earlier agent has left, and for the index that keeps two
//! pods from claiming one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::AsFd;

use mesh_common::maps::{CGROUP_STRICT, Cgroup, MAX_PODS, POD_HAS_V4, POD_HAS_V6, Pod};

use super::close::is_closed;
use super::error::{InterceptError, Tried};
use super::pins::Maps;
use super::{Interceptor, NetnsCookie, ip_of, links, sys};
use crate::addr;

/// A pod as the kernel has it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelPod {
    /// Its network namespace.
    pub netns: NetnsCookie,
    /// Whether its connections are redirected. `false`: only a link is left, of
    /// an enrolment or a release that did not come to its end.
    pub redirected: bool,
    /// Id of its cgroup; 0 when it is not redirected.
    pub cgroup_id: u64,
    /// The agent's port in its namespace; 0 when it is not redirected.
    pub port: u16,
    /// Whether the guard knows it.
    pub guarded: bool,
    /// Whether the guard lets no plaintext pass.
    pub strict: bool,
    /// Whether it is closed: its object is gone, and nothing of TCP leaves or enters it.
    pub closed: bool,
    /// Its addresses and the listeners there.
    pub slots: Vec<Slot>,
    /// What hands its inbound connections to the agent; `None` when there is no
    /// pinned link.
    pub lookup: Option<LookupLink>,
}

/// One address of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The address.
    pub address: IpAddr,
    /// Socket cookie of the agent's listener; `None` when no agent listens, and
    /// inbound connections are reset.
    pub listener: Option<u64>,
}

/// The link of the lookup program to a pod's namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookupLink {
    /// The link's id.
    pub link_id: u32,
    /// The program's id.
    pub prog_id: u32,
    /// Whether that is this agent's program.
    pub current: bool,
    /// Whether the namespace still exists.
    pub attached: bool,
    /// Inode of the namespace; 0 when it does not exist.
    pub netns_ino: u32,
}

/// Which address and which cgroup belong to which pod.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_address: HashMap<IpAddr, NetnsCookie>,
}

impl Index {
    /// Reads it from the maps that an earlier agent may have filled.
    pub(super) fn read(maps: &Maps) -> Result<Self, InterceptError> {
        let mut index = Self::default();
        for (netns, pod) in all(maps)? {
            for address in addresses(&pod) {
                index.by_address.insert(address, netns);
            }
        }
        Ok(index)
    }

    /// Whose address it is.
    pub(super) fn owner(&self, address: IpAddr) -> Option<NetnsCookie> {
        self.by_address.get(&address).copied()
    }

    /// Notes that `netns` has exactly these addresses.
    pub(super) fn set(&mut self, netns: NetnsCookie, addresses: &[IpAddr]) {
        self.by_address.retain(|_, owner| *owner != netns);
        for address in addresses {
            self.by_address.insert(*address, netns);
        }
    }
}

/// The addresses that a pod's entry claims.
pub(super) fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let claims = [(POD_HAS_V4, pod.ipv4), (POD_HAS_V6, pod.ipv6)];
    claims
        .into_iter()
        .filter(|(flag, _)| pod.flags & flag != 0)
        .map(|(_, ip)| addr::from_bytes(ip.bytes))
        .collect()
}

/// Every entry of the map of pods.
pub(super) fn all(maps: &Maps) -> Result<Vec<(NetnsCookie, Pod)>, InterceptError> {
    let tried = || "read the map of pods".to_owned();
    let cookies: Vec<u64> = sys::keys(maps.pods.as_fd(), MAX_PODS).tried(tried)?;
    let mut pods = Vec::with_capacity(cookies.len());
    for cookie in cookies {
        // `None`: removed since.
        if let Some(pod) = sys::lookup(maps.pods.as_fd(), &cookie).tried(tried)? {
            pods.push((NetnsCookie(cookie), pod));
        }
    }
    Ok(pods)
}

impl Interceptor {
    /// What the kernel says now of every pod, those included of which only a
    /// link is left. In the order of their cookies.
    ///
    /// # Errors
    /// Those of reading maps and links.
    pub fn kernel_pods(&self) -> Result<Vec<KernelPod>, InterceptError> {
        let program = self.programs.get(mesh_common::names::SK_LOOKUP)?;
        let ours = sys::prog_info(program)
            .tried(|| "look at the lookup program".to_owned())?
            .id;
        let mut pods: HashMap<NetnsCookie, KernelPod> = HashMap::new();
        for (netns, pod) in all(&self.maps)? {
            pods.insert(netns, self.describe_pod(netns, &pod)?);
        }
        for (netns, path) in links::lookup_pins(&self.options.pin_dir) {
            let tried = || format!("look at {}", path.display());
            let Some(link) = sys::open_pin(&path).tried(tried)? else {
                continue;
            };
            let info = sys::link_info(link.as_fd()).tried(tried)?;
            let pod = pods
                .entry(netns)
                .or_insert_with(|| KernelPod::remains(netns));
            pod.lookup = Some(LookupLink {
                link_id: info.id,
                prog_id: info.prog_id,
                current: info.prog_id == ours,
                attached: info.netns_ino != 0,
                netns_ino: info.netns_ino,
            });
        }
        let mut pods: Vec<_> = pods.into_values().collect();
        pods.sort_by_key(|pod| pod.netns);
        Ok(pods)
    }

    fn describe_pod(&self, netns: NetnsCookie, pod: &Pod) -> Result<KernelPod, InterceptError> {
        let cgroup: Option<Cgroup> = sys::lookup(self.maps.cgroups.as_fd(), &pod.cgroup_id)
            .tried(|| "read the map of cgroups".to_owned())?;
        let mut slots = Vec::new();
        for address in addresses(pod) {
            let listener = sys::lookup(self.maps.listeners.as_fd(), &ip_of(address))
                .tried(|| "read the map of listeners".to_owned())?;
            slots.push(Slot { address, listener });
        }
        Ok(KernelPod {
            redirected: true,
            cgroup_id: pod.cgroup_id,
            port: pod.port,
            guarded: cgroup.is_some(),
            strict: cgroup.is_some_and(|cgroup| cgroup.flags & CGROUP_STRICT != 0),
            closed: is_closed(pod),
            slots,
            ..KernelPod::remains(netns)
        })
    }
}

impl KernelPod {
    fn remains(netns: NetnsCookie) -> Self {
        Self {
            netns,
            redirected: false,
            cgroup_id: 0,
            port: 0,
            guarded: false,
            strict: false,
            closed: false,
            slots: Vec::new(),
            lookup: None,
        }
    }
}
