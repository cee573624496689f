//! Enrolling and releasing pods. The order matters: inbound is caught before
//! outbound is redirected, and the guards come last, so that nothing that the
//! agent is not ready for is ever handed to it, and nothing is dropped that
//! could have been handed over. Releasing goes the other way.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use mesh_common::ip::Ip;
use mesh_common::maps::{CGROUP_STRICT, Cgroup, MAX_DEPTH, MAX_PODS, POD_HAS_V4, POD_HAS_V6, Pod};

use super::close::is_closed;
use super::error::{InterceptError, Tried};
use super::pods::{self, Index};
use super::{Enrolment, Interceptor, NetnsCookie, cgroup, ip_of, links, sys};
use crate::addr;

impl Interceptor {
    /// Hands a pod to the agent, or changes how it is handed over when it is
    /// enrolled already. When a step fails, what a new pod had got is taken
    /// away again; a pod that was enrolled before keeps its guard and its
    /// redirection, on the new or on the old port.
    ///
    /// # Errors
    /// Says which step failed. [`InterceptError::AddressTaken`] when another
    /// pod has the address and has not been released, and
    /// [`InterceptError::CgroupTaken`] likewise.
    pub fn enrol(&self, enrolment: &Enrolment<'_>) -> Result<(), InterceptError> {
        let (netns, pod) = (enrolment.netns_cookie, self.pod_entry(enrolment)?);
        let addresses = pods::addresses(&pod);
        let mut index = self.index();
        for address in &addresses {
            match index.owner(*address) {
                Some(taken_by) if taken_by != netns => {
                    return Err(InterceptError::AddressTaken {
                        address: *address,
                        taken_by,
                    });
                }
                _ => {}
            }
        }
        if let Some(taken_by) = self.other_owner(pod.cgroup_id, netns)? {
            return Err(InterceptError::CgroupTaken {
                cgroup: enrolment.cgroup.to_owned(),
                taken_by,
            });
        }
        let before = self.pod(netns)?;
        match self.enrol_in_order(enrolment, &pod, &addresses) {
            Ok(()) => {
                if let Some(before) = before {
                    self.drop_outdated(&before, &pod)?;
                }
                index.set(netns, &addresses);
                Ok(())
            }
            Err(error) => {
                if before.is_none() {
                    // The first error is the one to report.
                    let _second = self.take_away(netns, pod.cgroup_id, &addresses);
                }
                Err(error)
            }
        }
    }

    /// Changes whether the guard cuts plaintext older than the enrolment.
    ///
    /// # Errors
    /// [`InterceptError::NotEnrolled`], or those of the map.
    pub fn set_strict(&self, netns: NetnsCookie, strict: bool) -> Result<(), InterceptError> {
        let _index = self.index();
        let pod = self.pod(netns)?.ok_or(InterceptError::NotEnrolled(netns))?;
        self.guard(netns, pod.cgroup_id, strict)?;
        self.set_device_mode(netns, strict)
    }

    /// Gives a pod back: its connections are its own again. Also for a pod that
    /// is gone, and for what is left of one. Nothing is an error that is gone
    /// already.
    ///
    /// # Errors
    /// The first step that failed; the pod is still enrolled then, at least in
    /// part, and releasing it can be tried again.
    pub fn release(&self, netns: NetnsCookie) -> Result<(), InterceptError> {
        let mut index = self.index();
        let (cgroup_id, addresses) = match self.pod(netns)? {
            Some(pod) => (Some(pod.cgroup_id), own_addresses(&index, netns, &pod)),
            None => (self.guarded_cgroup(netns)?, Vec::new()),
        };
        self.take_away(netns, cgroup_id.unwrap_or(0), &addresses)?;
        index.set(netns, &[]);
        Ok(())
    }

    pub(super) fn enrol_in_order(
        &self,
        enrolment: &Enrolment<'_>,
        pod: &Pod,
        addresses: &[IpAddr],
    ) -> Result<(), InterceptError> {
        let netns = enrolment.netns_cookie;
        self.claim_socket(enrolment.listener)
            .tried(|| "mark the listener as the agent's".to_owned())?;
        let listener = enrolment.listener.as_raw_fd() as u64;
        for address in addresses {
            sys::update(self.maps.listeners.as_fd(), &ip_of(*address), &listener)
                .tried(|| format!("put the listener in the slot of {address}"))?;
        }
        let pin_dir = &self.options.pin_dir;
        let mut links = self.links();
        let held = links.lookups.get(&netns).map(AsFd::as_fd);
        let (link, pinned) =
            links::attach_to_netns(&self.programs, pin_dir, netns, enrolment.netns, held)?;
        links.lookups.insert(netns, link);
        drop(links);
        // Before the cgroup is known, so that the guard looks where it will be.
        self.add_depth(pod.depth)?;
        sys::update(self.maps.pods.as_fd(), &netns.0, pod)
            .tried(|| format!("enter the pod with netns cookie {netns}"))?;
        self.guard(netns, pod.cgroup_id, enrolment.strict)?;
        self.guard_devices(enrolment, pod)?;
        pinned
    }

    /// Takes everything of a pod away, in the reverse order of enrolling.
    fn take_away(
        &self,
        netns: NetnsCookie,
        cgroup_id: u64,
        addresses: &[IpAddr],
    ) -> Result<(), InterceptError> {
        let tried = || format!("release the pod with netns cookie {netns}");
        self.unguard_devices(netns)?;
        // A sandbox that was made again shares the pod's cgroup.
        let guard = self.guard_entry(cgroup_id)?;
        if guard.is_some_and(|guard| guard.netns_cookie == netns.0) {
            sys::delete(self.maps.cgroups.as_fd(), &cgroup_id).tried(tried)?;
        }
        sys::delete(self.maps.pods.as_fd(), &netns.0).tried(tried)?;
        let held = self.links().lookups.remove(&netns);
        if let Some(link) = held {
            links::detach(link.as_fd()).tried(tried)?;
        }
        links::remove(&links::lookup_pin(&self.options.pin_dir, netns))?;
        for address in addresses {
            sys::delete(self.maps.listeners.as_fd(), &ip_of(*address)).tried(tried)?;
        }
        Ok(())
    }

    /// Removes what belonged to the pod's earlier entry only.
    pub(super) fn drop_outdated(&self, before: &Pod, now: &Pod) -> Result<(), InterceptError> {
        let tried = || "remove what a pod's earlier enrolment had".to_owned();
        if before.cgroup_id != now.cgroup_id {
            sys::delete(self.maps.cgroups.as_fd(), &before.cgroup_id).tried(tried)?;
        }
        let addresses = pods::addresses(now);
        for address in pods::addresses(before) {
            if !addresses.contains(&address) {
                sys::delete(self.maps.listeners.as_fd(), &ip_of(address)).tried(tried)?;
            }
        }
        Ok(())
    }

    pub(super) fn pod_entry(&self, enrolment: &Enrolment<'_>) -> Result<Pod, InterceptError> {
        let pods_cgroup = &self.options.pods_cgroup;
        let above = cgroup::id(pods_cgroup)?;
        let depth = cgroup::depth_below(enrolment.cgroup, above, MAX_DEPTH)
            .tried(|| format!("walk up from {}", enrolment.cgroup.display()))?
            .ok_or_else(|| InterceptError::OutsidePodsCgroup {
                cgroup: enrolment.cgroup.to_owned(),
                pods_cgroup: pods_cgroup.clone(),
                max: MAX_DEPTH,
            })?;
        let (ipv4, ipv6) = one_of_each(enrolment.addresses)?;
        Ok(Pod {
            cgroup_id: cgroup::id(enrolment.cgroup)?,
            depth,
            flags: ipv4.map_or(0, |_| POD_HAS_V4) | ipv6.map_or(0, |_| POD_HAS_V6),
            ipv4: ipv4.unwrap_or(Ip::UNSPECIFIED),
            ipv6: ipv6.unwrap_or(Ip::UNSPECIFIED),
            port: enrolment.port,
            reserved: [0; 6],
        })
    }

    pub(super) fn pod(&self, netns: NetnsCookie) -> Result<Option<Pod>, InterceptError> {
        sys::lookup(self.maps.pods.as_fd(), &netns.0).tried(|| "read the map of pods".to_owned())
    }

    pub(super) fn guard(
        &self,
        netns: NetnsCookie,
        cgroup_id: u64,
        strict: bool,
    ) -> Result<(), InterceptError> {
        let entry = Cgroup {
            netns_cookie: netns.0,
            flags: if strict { CGROUP_STRICT } else { 0 },
            reserved: 0,
        };
        sys::update(self.maps.cgroups.as_fd(), &cgroup_id, &entry)
            .tried(|| format!("guard the pod with netns cookie {netns}"))
    }

    /// The other enrolled pod that has this cgroup: the guard could not tell the
    /// two apart, and releasing one would unguard both.
    fn other_owner(
        &self,
        cgroup_id: u64,
        netns: NetnsCookie,
    ) -> Result<Option<NetnsCookie>, InterceptError> {
        let entry = self.guard_entry(cgroup_id)?;
        let owner = entry.map(|entry| NetnsCookie(entry.netns_cookie));
        let Some(owner) = owner.filter(|owner| *owner != netns) else {
            return Ok(None);
        };
        let pod = self.pod(owner)?;
        // A closed pod gives its cgroup up to the pod's next sandbox.
        let pod = pod.filter(|pod| pod.cgroup_id == cgroup_id && !is_closed(pod));
        Ok(pod.map(|_| owner))
    }

    /// The guarded cgroup of a pod that has no entry any more.
    fn guarded_cgroup(&self, netns: NetnsCookie) -> Result<Option<u64>, InterceptError> {
        let tried = || "read the map of cgroups".to_owned();
        let map = self.maps.cgroups.as_fd();
        for id in sys::keys::<u64>(map, MAX_PODS).tried(tried)? {
            let entry: Option<Cgroup> = sys::lookup(map, &id).tried(tried)?;
            if entry.is_some_and(|entry| entry.netns_cookie == netns.0) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// Makes the guard look at this depth; it never stops doing so, which costs
    /// a lookup that finds nothing.
    pub(super) fn add_depth(&self, depth: u32) -> Result<(), InterceptError> {
        let mut meta = self.maps.meta()?;
        if meta.depths & (1 << depth) == 0 {
            meta.depths |= 1 << depth;
            self.maps.set_meta(&meta)?;
        }
        Ok(())
    }

    pub(super) fn index(&self) -> std::sync::MutexGuard<'_, Index> {
        self.pods.lock().unwrap_or_else(|dead| dead.into_inner())
    }
}

/// The addresses of a pod's entry that no other pod has taken since.
pub(super) fn own_addresses(index: &Index, netns: NetnsCookie, pod: &Pod) -> Vec<IpAddr> {
    let mut addresses = pods::addresses(pod);
    addresses.retain(|address| index.owner(*address) == Some(netns));
    addresses
}

fn one_of_each(addresses: &[IpAddr]) -> Result<(Option<Ip>, Option<Ip>), InterceptError> {
    let (mut ipv4, mut ipv6) = (None, None);
    for address in addresses {
        let address = addr::canonical_ip(*address);
        let family = if address.is_ipv4() {
            &mut ipv4
        } else {
            &mut ipv6
        };
        if family.replace(ip_of(address)).is_some() {
            return Err(InterceptError::Addresses);
        }
    }
    if ipv4.is_none() && ipv6.is_none() {
        return Err(InterceptError::Addresses);
    }
    Ok((ipv4, ipv6))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_pod_has_one_address_of_a_family_or_one_of_each() {
        let (ipv4, ipv6) = one_of_each(&ips(&["fd00::1", "10.0.0.1"])).unwrap();
        assert!(ipv4.is_some_and(|ip| ip.is_v4()));
        assert!(ipv6.is_some_and(|ip| !ip.is_v4()));
        let (ipv4, ipv6) = one_of_each(&ips(&["::ffff:10.0.0.1"])).unwrap();
        assert!(ipv4.is_some() && ipv6.is_none());
        for bad in [
            &[][..],
            &["10.0.0.1", "10.0.0.2"],
            &["10.0.0.1", "::ffff:10.0.0.1"],
        ] {
            let result = one_of_each(&ips(bad));
            assert!(matches!(result, Err(InterceptError::Addresses)), "{bad:?}");
        }
    }
}
