//! The comparison itself: pure, from what is wanted and what is seen to the faults.

use std::net::IpAddr;

use mesh_common::maps::{CGROUP_STRICT, Cgroup, Meta, Pod};

use super::Fault;
use crate::intercept::NetnsCookie;
use crate::intercept::sys::Listener;

/// What this agent means a pod to have.
pub(super) struct Expected {
    pub(super) netns: NetnsCookie,
    pub(super) netns_ino: u64,
    pub(super) entry: Pod,
    pub(super) strict: bool,
    pub(super) listener: Listener,
}

/// What the kernel has of it.
pub(super) struct Seen {
    pub(super) entry: Option<Pod>,
    pub(super) guard: Option<Cgroup>,
    /// Its addresses, with the cookies of the sockets in their slots.
    pub(super) slots: Vec<(IpAddr, Option<u64>)>,
    pub(super) lookup: Lookup,
}

/// The `sk_lookup` link that this agent holds; all zero when there is none.
#[derive(Default)]
pub(super) struct Lookup {
    /// 0 once it is detached.
    pub(super) netns_ino: u32,
    /// The tag of its program, when that is another's.
    pub(super) other_tag: Option<String>,
    pub(super) pinned: bool,
}

/// What is not as it should be, in the order in which a connection would meet it.
pub(super) fn pod(wanted: &Expected, seen: &Seen) -> Vec<Fault> {
    let mut faults = Vec::new();
    entry(&mut faults, &wanted.entry, seen.entry.as_ref());
    match &seen.guard {
        None => faults.push(Fault::NotGuarded),
        Some(guard) if guard.netns_cookie != wanted.netns.0 => {
            faults.push(Fault::GuardedOtherwise);
        }
        Some(guard) if (guard.flags & CGROUP_STRICT != 0) != wanted.strict => {
            let strict = wanted.strict;
            faults.push(Fault::Mode { strict });
        }
        Some(_) => {}
    }
    if u64::from(seen.lookup.netns_ino) != wanted.netns_ino {
        faults.push(Fault::NotLookedUp);
    } else if let Some(tag) = &seen.lookup.other_tag {
        faults.push(Fault::LookupReplaced(tag.clone()));
    } else if !seen.lookup.pinned {
        faults.push(Fault::Unpinned("its sk_lookup link".to_owned()));
    }
    if !wanted.listener.accepts || wanted.listener.netns_cookie != wanted.netns.0 {
        faults.push(Fault::NotAccepting);
    }
    for (address, socket) in &seen.slots {
        match socket {
            None => faults.push(Fault::SlotEmpty(*address)),
            Some(cookie) if *cookie != wanted.listener.cookie => {
                faults.push(Fault::SlotTaken(*address));
            }
            Some(_) => {}
        }
    }
    faults
}

fn entry(faults: &mut Vec<Fault>, wanted: &Pod, seen: Option<&Pod>) {
    let Some(seen) = seen else {
        return faults.push(Fault::NotRedirected);
    };
    let mut same = |holds: bool, what| {
        if !holds {
            faults.push(Fault::RedirectedOtherwise(what));
        }
    };
    same(
        seen.cgroup_id == wanted.cgroup_id && seen.depth == wanted.depth,
        "cgroup",
    );
    same(seen.port == wanted.port, "port");
    let addresses = |pod: &Pod| (pod.flags, pod.ipv4, pod.ipv6);
    same(addresses(seen) == addresses(wanted), "address");
}

/// What of the meta map is not as it should be. More `depths` than wanted do no harm; a
/// level of 0 is yet to be found by a program.
pub(super) fn settings(seen: &Meta, wanted: &Meta) -> Option<Fault> {
    let fault = |what| Some(Fault::Settings(what));
    if seen.pods_cgroup_id != wanted.pods_cgroup_id {
        fault("which cgroup is the pods'")
    } else if seen.abi_version != wanted.abi_version {
        fault("the version")
    } else if seen.pods_level != 0 && seen.pods_level != wanted.pods_level {
        fault("the pods cgroup's level")
    } else if seen.depths & wanted.depths != wanted.depths {
        fault("the depths at which pods are looked for")
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
