//! What the kernel has, compared with what this agent put there: the programs' links, their
//! pins and the maps', and each pod's entries. Asked by `agent` for `audit`, `workloads` and
//! readiness alike, so that the three cannot disagree; mends what it finds.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use mesh_common::maps::{Cgroup, Meta, Pod};
use mesh_common::{ABI_VERSION, names};

use super::error::{InterceptError, Tried};
use super::{Enrolment, Interceptor, cgroup, ip_of, links, pins, pods, sys};

mod compare;
mod repair;

pub use repair::Repairs;

/// One way in which the kernel differs from what this agent put there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Fault {
    /// A link does not lead to its cgroup any more.
    #[error("the kernel program {0} is not attached to its cgroup")]
    Detached(&'static str),
    /// A link runs another program.
    #[error("the link {link} runs a program with tag {found} in the place of this agent's, {ours}")]
    Replaced {
        /// The pin of the link.
        link: &'static str,
        /// The tag of the program that it runs.
        found: String,
        /// The tag of this agent's.
        ours: String,
    },
    /// A pin is gone, or leads to something else: what it kept ends with this agent.
    #[error("{0} is not pinned: it would end with this agent")]
    Unpinned(String),
    /// The single entry of the meta map was changed.
    #[error("the programs' settings were changed: {0}")]
    Settings(&'static str),
    /// The kernel does not run a program for the pod's cgroup.
    #[error("the kernel does not run the program {0} for its cgroup")]
    NotEffective(&'static str),
    /// `connect()` does not know the pod.
    #[error("its connections are not redirected")]
    NotRedirected,
    /// `connect()` knows the pod otherwise.
    #[error("its connections are redirected by another {0} than its own")]
    RedirectedOtherwise(&'static str),
    /// The guard does not know the pod.
    #[error("the guard does not know it")]
    NotGuarded,
    /// The guard takes the pod's cgroup for another pod's.
    #[error("the guard takes its cgroup for another pod's")]
    GuardedOtherwise,
    /// The guard has another mode than the configuration.
    #[error("the guard has it {}, and the configuration {}", mode(!.strict), mode(*.strict))]
    Mode {
        /// Whether the configuration has it STRICT.
        strict: bool,
    },
    /// No listener is in the slot of an address.
    #[error("no listener receives what is sent to {0}")]
    SlotEmpty(IpAddr),
    /// A socket that is not the pod's listener is in the slot of an address.
    #[error("another socket than its listener receives what is sent to {0}")]
    SlotTaken(IpAddr),
    /// The listener takes no connections.
    #[error("the agent's listener in it does not accept")]
    NotAccepting,
    /// No `sk_lookup` link leads to the pod's namespace.
    #[error("no sk_lookup link to its namespace")]
    NotLookedUp,
    /// The devices' programs do not know the pod, or know it otherwise.
    #[error("the programs on its devices do not have its addresses, mode and cgroup")]
    DeviceEntry,
    /// A device of the pod has no program of the agent, or another filter before it.
    #[error("the kernel program {program} does not come first on its device {device}")]
    DeviceOpen {
        /// The device.
        device: String,
        /// The program.
        program: &'static str,
    },
    /// A device of the pod runs another program in the agent's place.
    #[error("its device {device} runs another program in the place of this agent's {program}")]
    DeviceReplaced {
        /// The device.
        device: String,
        /// The program.
        program: &'static str,
    },
    /// The `sk_lookup` link runs another program.
    #[error("its sk_lookup link runs a program with tag {0} in the place of this agent's")]
    LookupReplaced(String),
}

impl Fault {
    /// What was at fault, in a few fixed words for metrics.
    pub fn what(&self) -> &'static str {
        match self {
            Self::Detached(_) | Self::NotEffective(_) => "program",
            Self::Replaced { .. } => "program_replaced",
            Self::Unpinned(_) => "pin",
            Self::Settings(_) => "settings",
            Self::NotRedirected | Self::RedirectedOtherwise(_) => "pod_entry",
            Self::NotGuarded | Self::GuardedOtherwise => "guard_entry",
            Self::Mode { .. } => "mode",
            Self::SlotEmpty(_) | Self::SlotTaken(_) => "slot",
            Self::NotAccepting => "listener",
            Self::NotLookedUp => "sk_lookup",
            Self::LookupReplaced(_) => "sk_lookup_replaced",
            Self::DeviceEntry => "device_entry",
            Self::DeviceOpen { .. } => "device",
            Self::DeviceReplaced { .. } => "device_replaced",
        }
    }
}

impl Fault {
    /// Whether traffic is at risk now. A pin is for the time when no agent runs.
    pub fn uncovers(&self) -> bool {
        !matches!(self, Self::Unpinned(_))
    }

    /// Whether a link does not lead to its cgroup.
    pub fn is_detached(&self) -> bool {
        matches!(self, Self::Detached(_))
    }
}

fn mode(strict: bool) -> &'static str {
    if strict { "STRICT" } else { "PERMISSIVE" }
}

impl Interceptor {
    /// What all pods depend on and is not as this agent made it: links, pins, settings.
    /// Nothing, once another agent has taken over: it is that one's then.
    ///
    /// # Errors
    /// Those of asking the kernel: whether the pods are covered is not known then.
    pub fn node_faults(&self) -> Result<Vec<Fault>, InterceptError> {
        if self.is_superseded()? {
            return Ok(Vec::new());
        }
        let mut faults = self.link_faults()?;
        let maps_dir = self.options.pin_dir.join(names::MAPS_DIR);
        for (name, map) in self.maps.all() {
            let tried = || format!("look at the map {name}");
            let ours = sys::map_id(map).tried(tried)?;
            if pins::pinned_map(&maps_dir.join(name)) != Some(ours) {
                faults.push(Fault::Unpinned(format!("the map {name}")));
            }
        }
        let meta = self.maps.meta()?;
        let level = self.known_level(&meta);
        faults.extend(compare::settings(&meta, &self.wanted_meta(0, level)?));
        Ok(faults)
    }

    fn link_faults(&self) -> Result<Vec<Fault>, InterceptError> {
        let wanted = cgroup::id(&self.options.pods_cgroup)?;
        let held = self.links();
        let mut faults = Vec::new();
        for (pin, program, _) in links::ON_PODS {
            let tried = || format!("look at the link {pin}");
            let link = held
                .on_pods
                .get(pin)
                .map(|link| sys::link_info(link.as_fd()));
            let link = link.transpose().tried(tried)?;
            let Some(link) = link.filter(|link| link.cgroup_id == wanted) else {
                faults.push(Fault::Detached(program));
                continue;
            };
            let ours = sys::prog_info(self.programs.get(program)?).tried(tried)?;
            if link.prog_id != ours.id {
                faults.push(Fault::Replaced {
                    link: pin,
                    found: tag_of(link.prog_id),
                    ours: links::tag(&ours.tag),
                });
            }
            let path = self.options.pin_dir.join(names::LINKS_DIR).join(pin);
            if links::pinned_link(&path) != Some(link.id) {
                faults.push(Fault::Unpinned(format!("the link {pin}")));
            }
        }
        let own = held
            .client_ops
            .as_ref()
            .map(|link| sys::link_info(link.as_fd()));
        let own = own
            .transpose()
            .tried(|| format!("look at {}", names::CLIENT_OPS))?;
        if own.is_none_or(|link| link.cgroup_id == 0) {
            faults.push(Fault::Detached(names::CLIENT_OPS));
        }
        Ok(faults)
    }

    /// What the kernel has of one pod that is not as `wanted`.
    ///
    /// # Errors
    /// Those of asking the kernel: whether the pod is covered is not known then.
    pub fn pod_faults(&self, wanted: &Enrolment<'_>) -> Result<Vec<Fault>, InterceptError> {
        let entry = self.pod_entry(wanted)?;
        let listener =
            sys::listener(wanted.listener).tried(|| "look at the listener".to_owned())?;
        let expected = compare::Expected {
            netns: wanted.netns_cookie,
            netns_ino: sys::inode(wanted.netns).tried(|| "look at a namespace".to_owned())?,
            entry,
            strict: wanted.strict,
            listener,
        };
        let mut faults = compare::pod(&expected, &self.seen(wanted, &entry)?);
        let level = self.known_level(&self.maps.meta()?);
        let depths = 1 << entry.depth;
        faults.extend(compare::settings(
            &self.maps.meta()?,
            &self.wanted_meta(depths, level)?,
        ));
        faults.extend(self.not_effective(wanted)?);
        faults.extend(self.device_faults(wanted, &entry)?);
        Ok(faults)
    }

    /// What the kernel has of the pod.
    fn seen(&self, wanted: &Enrolment<'_>, entry: &Pod) -> Result<compare::Seen, InterceptError> {
        let tried = || "read the map of cgroups".to_owned();
        let guard: Option<Cgroup> =
            sys::lookup(self.maps.cgroups.as_fd(), &entry.cgroup_id).tried(tried)?;
        let mut slots = Vec::new();
        for address in pods::addresses(entry) {
            let listener = sys::lookup(self.maps.listeners.as_fd(), &ip_of(address))
                .tried(|| "read the map of listeners".to_owned())?;
            slots.push((address, listener));
        }
        Ok(compare::Seen {
            entry: self.pod(wanted.netns_cookie)?,
            guard,
            slots,
            lookup: self.seen_lookup(wanted)?,
        })
    }

    fn seen_lookup(&self, wanted: &Enrolment<'_>) -> Result<compare::Lookup, InterceptError> {
        let tried = || "look at an sk_lookup link".to_owned();
        let cookie = wanted.netns_cookie;
        let held = self.links();
        let link = held
            .lookups
            .get(&cookie)
            .map(|link| sys::link_info(link.as_fd()));
        let Some(link) = link.transpose().tried(tried)? else {
            return Ok(compare::Lookup::default());
        };
        let ours = sys::prog_info(self.programs.get(names::SK_LOOKUP)?).tried(tried)?;
        let pin = links::lookup_pin(&self.options.pin_dir, cookie);
        Ok(compare::Lookup {
            netns_ino: link.netns_ino,
            other_tag: (link.prog_id != ours.id).then(|| tag_of(link.prog_id)),
            pinned: links::pinned_link(&pin) == Some(link.id),
        })
    }

    /// The programs that the kernel does not run for sockets of the pod's cgroup.
    fn not_effective(&self, wanted: &Enrolment<'_>) -> Result<Vec<Fault>, InterceptError> {
        let path = wanted.cgroup;
        let directory = File::open(path).tried(|| format!("open {}", path.display()))?;
        let mut faults = Vec::new();
        for (pin, program, attach_type) in links::ON_PODS {
            let tried = || format!("ask which programs the kernel runs at {pin}");
            let running = sys::effective(directory.as_fd(), attach_type).tried(tried)?;
            let ours = sys::prog_info(self.programs.get(program)?).tried(tried)?.id;
            if !running.contains(&ours) {
                faults.push(Fault::NotEffective(program));
            }
        }
        Ok(faults)
    }

    /// The level of the pods cgroup, as a program found it first: later it may have been
    /// written by somebody else.
    fn known_level(&self, meta: &Meta) -> u32 {
        let found = meta.pods_level;
        match self
            .pods_level
            .compare_exchange(0, found, Ordering::Relaxed, Ordering::Relaxed)
        {
            Ok(_) => found,
            Err(known) => known,
        }
    }

    fn wanted_meta(&self, depths: u32, pods_level: u32) -> Result<Meta, InterceptError> {
        Ok(Meta {
            pods_cgroup_id: cgroup::id(&self.options.pods_cgroup)?,
            abi_version: ABI_VERSION,
            pods_level,
            depths,
            reserved: 0,
        })
    }
}

/// The tag of a program by its id; a question mark when it has gone since.
fn tag_of(prog_id: u32) -> String {
    sys::prog_info_by_id(prog_id).map_or_else(|_| "?".to_owned(), |info| links::tag(&info.tag))
}
