//! The programs on the devices of enrolled pods, which see TCP that has no socket of the pod.
//!
//! They are filters of `clsact` (tc), on every kernel alike: a filter stays on its device
//! without a pin, its class id tells the program whose device it is, and a new one takes its
//! place in one step. The class id is the pod's number in the map of devices. Without an
//! entry there a program that was left behind lets everything pass.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use mesh_common::ip::Ip;
use mesh_common::maps::{CGROUP_STRICT, Device, Forwarded, MAX_DEVICES, Pod};
use mesh_common::names;

use super::audit::Fault;
use super::error::{InterceptError, Tried};
use super::pins::Maps;
use super::{Enrolment, Interceptor, NetnsCookie, links, pins, sys};

mod message;
mod netlink;

use message::{Link, Side};
use netlink::Netlink;

const EMPTY: Device = Device {
    netns_cookie: 0,
    cgroup_id: 0,
    ipv4: Ip::UNSPECIFIED,
    ipv6: Ip::UNSPECIFIED,
    flags: 0,
    reserved: 0,
};

/// The numbers of the pods. No socket in their namespaces is kept: it would keep a namespace
/// alive, and with it the link by whose end a pod that is gone is known.
#[derive(Debug, Default)]
pub(super) struct Devices {
    numbers: HashMap<NetnsCookie, u32>,
}

impl Devices {
    /// Reads the numbers from the map that an earlier agent may have filled.
    pub(super) fn read(maps: &Maps) -> Result<Self, InterceptError> {
        let mut devices = Self::default();
        for number in 1..MAX_DEVICES as u32 {
            let entry = entry(maps.devices.as_fd(), number)?;
            if entry.netns_cookie != 0 {
                devices
                    .numbers
                    .insert(NetnsCookie(entry.netns_cookie), number);
            }
        }
        Ok(devices)
    }

    /// The pod's number, or one that no pod has.
    fn number(&self, netns: NetnsCookie) -> Option<u32> {
        let known = self.numbers.get(&netns).copied();
        let taken = |number: &u32| self.numbers.values().any(|other| other == number);
        known.or_else(|| (1..MAX_DEVICES as u32).find(|number| !taken(number)))
    }
}

/// TCP that a pod forwarded without a socket of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForwardedTcp {
    /// Packets that passed, since the pod was enrolled.
    pub passed: u64,
    /// Packets that were dropped.
    pub dropped: u64,
    /// How long ago the last one passed; `None` when none did.
    pub last_passed: Option<Duration>,
}

impl Interceptor {
    /// What the pod forwarded; nothing of a pod that is not enrolled.
    ///
    /// # Errors
    /// Those of reading a map.
    pub fn forwarded(&self, netns: NetnsCookie) -> Result<ForwardedTcp, InterceptError> {
        let Some(number) = self.devices().numbers.get(&netns).copied() else {
            return Ok(ForwardedTcp::default());
        };
        let tried = || "read the map of forwarded packets".to_owned();
        let seen: Option<Forwarded> =
            sys::lookup(self.maps.forwarded.as_fd(), &number).tried(tried)?;
        let seen = seen.unwrap_or_default();
        let ago = || Duration::from_nanos(sys::monotonic_ns().saturating_sub(seen.passed_ns));
        Ok(ForwardedTcp {
            passed: seen.passed,
            dropped: seen.dropped,
            last_passed: (seen.passed_ns != 0).then(ago),
        })
    }

    /// Puts the programs on all devices of the pod, or new ones in the place of old ones.
    pub(super) fn guard_devices(
        &self,
        wanted: &Enrolment<'_>,
        pod: &Pod,
    ) -> Result<(), InterceptError> {
        let netns = wanted.netns_cookie;
        let mut devices = self.devices();
        let number = devices.number(netns).ok_or(InterceptError::TooManyPods)?;
        let tried = || format!("enter the devices of the pod with netns cookie {netns}");
        if devices.numbers.insert(netns, number).is_none() {
            let none = Forwarded::default();
            sys::update(self.maps.forwarded.as_fd(), &number, &none).tried(tried)?;
        }
        let entry = wanted_entry(wanted, pod);
        sys::update(self.maps.devices.as_fd(), &number, &entry).tried(tried)?;
        let tried = || "list the pod's devices".to_owned();
        let socket = Netlink::open_in(wanted.netns).tried(tried)?;
        for device in socket.devices().tried(tried)? {
            for side in Side::ALL {
                let (name, program) = self.program_of(side)?;
                let set = socket.set(device.index, side, program, name, number);
                match set {
                    // It went away since.
                    Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                    other => other.tried(|| {
                        format!(
                            "put {name} on the pod's device {} (tc, cls_bpf)",
                            device.name
                        )
                    })?,
                }
            }
        }
        Ok(())
    }

    /// Changes the mode that the devices' programs have the pod in.
    pub(super) fn set_device_mode(
        &self,
        netns: NetnsCookie,
        strict: bool,
    ) -> Result<(), InterceptError> {
        let Some(number) = self.devices().numbers.get(&netns).copied() else {
            return Ok(());
        };
        let map = self.maps.devices.as_fd();
        let entry = Device {
            flags: flags(strict),
            ..entry(map, number)?
        };
        sys::update(map, &number, &entry)
            .tried(|| format!("change the devices' mode of the pod with netns cookie {netns}"))
    }

    /// Has the programs let everything pass, and takes them off the pod's devices. A
    /// namespace that cannot be entered keeps them, and they do nothing there.
    pub(super) fn unguard_devices(&self, netns: NetnsCookie) -> Result<(), InterceptError> {
        let mut devices = self.devices();
        if let Some(number) = devices.numbers.get(&netns) {
            sys::update(self.maps.devices.as_fd(), number, &EMPTY)
                .tried(|| format!("release the devices of the pod with netns cookie {netns}"))?;
        }
        if let Some(socket) = find(&links::lookup_pin(&self.options.pin_dir, netns)) {
            clear(&socket).tried(|| "take the programs off a pod's devices".to_owned())?;
        }
        devices.numbers.remove(&netns);
        Ok(())
    }

    /// What of the programs on the pod's devices is not as enrolling would make it.
    pub(super) fn device_faults(
        &self,
        wanted: &Enrolment<'_>,
        pod: &Pod,
    ) -> Result<Vec<Fault>, InterceptError> {
        let devices = self.devices();
        let netns = wanted.netns_cookie;
        let Some(number) = devices.numbers.get(&netns) else {
            return Ok(vec![Fault::DeviceEntry]);
        };
        let tried = || "list the pod's devices".to_owned();
        let socket = Netlink::open_in(wanted.netns).tried(tried)?;
        let mut faults = Vec::new();
        if entry(self.maps.devices.as_fd(), *number)? != wanted_entry(wanted, pod) {
            faults.push(Fault::DeviceEntry);
        }
        for device in socket
            .devices()
            .tried(|| "list the pod's devices".to_owned())?
        {
            for side in Side::ALL {
                faults.extend(self.filter_fault(&socket, &device, side, *number)?);
            }
        }
        Ok(faults)
    }

    fn filter_fault(
        &self,
        socket: &Netlink,
        device: &Link,
        side: Side,
        number: u32,
    ) -> Result<Option<Fault>, InterceptError> {
        let tried = || format!("list the filters of the pod's device {}", device.name);
        let Some(filters) = netlink::gone(socket.filters(device.index, side)).tried(tried)? else {
            return Ok(None);
        };
        let (program, fd) = self.program_of(side)?;
        // A filter before it could let pass what it would not.
        let Some(filter) = filters.first().filter(|filter| filter.is_agents()) else {
            let device = device.name.clone();
            return Ok(Some(Fault::DeviceOpen { device, program }));
        };
        let ours = sys::prog_info(fd).tried(tried)?.id;
        let same = filter.prog_id == ours && filter.class_id == number && filter.direct;
        Ok((!same).then(|| Fault::DeviceReplaced {
            device: device.name.clone(),
            program,
        }))
    }

    fn program_of(&self, side: Side) -> Result<(&'static str, BorrowedFd<'_>), InterceptError> {
        let name = match side {
            Side::Ingress => names::DEVICE_INGRESS,
            Side::Egress => names::DEVICE_EGRESS,
        };
        Ok((name, self.programs.get(name)?))
    }

    fn devices(&self) -> MutexGuard<'_, Devices> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has the programs of all pods let everything pass, and takes them off the devices of those
/// whose namespaces can be found: for an agent's pins that are about to be removed.
pub(super) fn remove_all(pin_dir: &Path) -> Result<(), InterceptError> {
    let path = pin_dir.join(names::MAPS_DIR).join(names::DEVICES);
    let tried = || format!("open the map {}", path.display());
    let Some(map) = sys::open_pin(&path).tried(tried)? else {
        return Ok(());
    };
    for number in 1..MAX_DEVICES as u32 {
        if entry(map.as_fd(), number)?.netns_cookie != 0 {
            sys::update(map.as_fd(), &number, &EMPTY).tried(tried)?;
        }
    }
    let mut result = Ok(());
    for (_, pin) in links::lookup_pins(pin_dir) {
        if let Some(socket) = find(&pin) {
            let cleared = clear(&socket);
            let tried = || "take the programs off a pod's devices".to_owned();
            result = result.and(cleared.tried(tried));
        }
    }
    result
}

/// Whether the kernel takes programs as filters, tried in a network namespace that ends with
/// the question.
pub(super) fn is_supported(program: BorrowedFd<'_>) -> io::Result<()> {
    use nix::sched::{CloneFlags, unshare};
    let ask = || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let socket = Netlink::open()?;
        socket.set(
            socket.loopback()?,
            Side::Egress,
            program,
            "isthmus_probe",
            0,
        )
    };
    std::thread::scope(|scope| {
        let asked = scope.spawn(ask).join();
        asked.unwrap_or_else(|_| Err(io::Error::other("the thread that asks panicked")))
    })
}

fn clear(socket: &Netlink) -> io::Result<()> {
    let mut result = Ok(());
    for device in socket.devices()? {
        result = result.and(socket.clear(device.index));
    }
    result
}

fn wanted_entry(wanted: &Enrolment<'_>, pod: &Pod) -> Device {
    Device {
        netns_cookie: wanted.netns_cookie.0,
        cgroup_id: pod.cgroup_id,
        ipv4: pod.ipv4,
        ipv6: pod.ipv6,
        flags: flags(wanted.strict),
        reserved: 0,
    }
}

fn flags(strict: bool) -> u32 {
    if strict { CGROUP_STRICT } else { 0 }
}

fn entry(map: BorrowedFd<'_>, number: u32) -> Result<Device, InterceptError> {
    let entry = sys::lookup(map, &number).tried(|| "read the map of devices".to_owned())?;
    Ok(entry.unwrap_or(EMPTY))
}

/// A socket in the namespace to which the pinned link leads, where that can be found by a
/// name or by a process in it.
fn find(link: &Path) -> Option<Netlink> {
    let link = sys::open_pin(link).ok().flatten()?;
    let inode = u64::from(sys::link_info(link.as_fd()).ok()?.netns_ino);
    if inode == 0 {
        return None;
    }
    let path = namespaces().find(|path| fs::metadata(path).is_ok_and(|it| it.ino() == inode))?;
    Netlink::open_in(File::open(path).ok()?.as_fd()).ok()
}

/// Paths that lead to network namespaces: the named ones, and those of all processes.
fn namespaces() -> impl Iterator<Item = PathBuf> {
    let named = pins::entries(Path::new("/run/netns")).into_iter();
    let processes = pins::entries(Path::new("/proc")).into_iter();
    named.chain(processes.map(|process| process.join("ns/net")))
}
