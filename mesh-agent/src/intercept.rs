//! The agent's hold on the kernel: programs on the pods cgroup that hand a
//! pod's TCP to the agent, maps that tell them of the pods, and pins that keep
//! all of it in place while no agent runs. Nothing else in the agent knows of
//! eBPF. `agent` opens one [`Interceptor`] and enrols pods with it; `proxy` asks
//! it for original destinations and publishes clients.
//!
//! Two agents may hold the same pins at once, which is how an agent is replaced
//! without a gap: the newer one puts its programs in the place of the older
//! one's (link by link, each without an instant in between), enrols every pod
//! anew with listeners of its own, and the older one drains. An older one must
//! not enrol or release any more from then on. Only [`Interceptor::open`] itself
//! excludes another open, by a lock on the pin directory.
//!
//! Maps of another [`mesh_common::ABI_VERSION`] are refused, not converted: the
//! programs attached go on guarding, and nothing is lost but the upgrade.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mesh_common::maps::{CLIENT_PUBLISHED, Client, Destination};
use mesh_common::names;

use crate::addr::{self, ClientAddr, OriginalDst};

mod audit;
mod cgroup;
mod close;
mod counters;
mod device;
mod enrol;
mod error;
mod events;
pub mod features;
mod handshakes;
mod kubelet;
mod links;
mod object;
mod pins;
mod pods;
pub mod sockdiag;
mod sys;

pub use audit::{Fault, Repairs};
pub(crate) use cgroup::own as own_cgroup;
pub use cgroup::{cgroup2_mount, is_populated};
pub use close::ClosedPod;
pub use counters::Counters;
pub use device::ForwardedTcp;
pub use error::InterceptError;
pub use events::{EventStream, KernelEvent, KernelEvents};
pub use handshakes::Fill;
pub use kubelet::{KubeletCgroup, KubeletError};
pub use links::Attachment;
pub use object::is_embedded;
pub use pins::remove_all;
pub use pods::{KernelPod, LookupLink, Slot};

/// The kernel's number for a network namespace, never used again while the
/// machine runs (`SO_NETNS_COOKIE`, Linux 5.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetnsCookie(pub u64);

impl fmt::Display for NetnsCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where the mesh is attached and pinned.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cgroup v2 directory above all pods.
    pub pods_cgroup: PathBuf,
    /// A directory on a bpf file system; made when it is absent.
    pub pin_dir: PathBuf,
    /// The cgroup v2 directory of the agent; found when it is not given.
    pub agent_cgroup: Option<PathBuf>,
    /// Whose probes are let through to the pods.
    pub kubelet: KubeletCgroup,
}

/// A pod that is to be handed to the agent.
#[derive(Clone, Copy, Debug)]
pub struct Enrolment<'a> {
    /// The pod's network namespace.
    pub netns: BorrowedFd<'a>,
    /// Its cookie.
    pub netns_cookie: NetnsCookie,
    /// The pod's cgroup v2 directory, below the pods cgroup.
    pub cgroup: &'a Path,
    /// One address of a family, or one of each.
    pub addresses: &'a [IpAddr],
    /// A TCP socket that listens inside the pod's namespace, on `[::]`, or on
    /// `0.0.0.0` for a pod without IPv6.
    pub listener: BorrowedFd<'a>,
    /// Its port.
    pub port: u16,
    /// Whether plaintext older than the enrolment is cut off too.
    pub strict: bool,
}

/// The kernel's side of the mesh, on one node. Dropping it leaves everything
/// pinned in place but the programs' view of clients, which needs an agent.
#[derive(Debug)]
pub struct Interceptor {
    options: Options,
    programs: object::Programs,
    maps: pins::Maps,
    pods: Mutex<pods::Index>,
    events: Mutex<Option<EventStream>>,
    links: Mutex<links::Held>,
    devices: Mutex<device::Devices>,
    agent_cgroup: PathBuf,
    kubelet: Mutex<kubelet::Known>,
    /// Namespaces that had handshakes and no pod at the last sweep.
    ownerless: Mutex<HashSet<u64>>,
    /// [`mesh_common::maps::Meta::pods_level`] as a program found it; 0 until then.
    pods_level: AtomicU32,
}

impl Interceptor {
    /// Loads the programs and puts them in place, taking over what an earlier
    /// agent has pinned. Mounts nothing.
    ///
    /// # Errors
    /// Says what is missing, and the cure. What an earlier agent has attached
    /// stays attached then, by this or by the earlier agent's programs.
    pub fn open(options: &Options) -> Result<Self, InterceptError> {
        if !object::is_embedded() {
            return Err(InterceptError::NoObject);
        }
        let pods_cgroup_id = cgroup::id(&options.pods_cgroup)?;
        let agent_cgroup = match &options.agent_cgroup {
            Some(path) => path.clone(),
            None => cgroup::own()?,
        };
        let _lock = pins::lock(&options.pin_dir)?;
        pins::check(options, pods_cgroup_id)?;
        let (programs, events) = object::load(&options.pin_dir.join(names::MAPS_DIR))?;
        let maps = pins::Maps::open(&options.pin_dir)?;
        maps.claim(pods_cgroup_id)?;
        let mut held = links::Held::default();
        links::attach_to_pods(&programs, options, pods_cgroup_id, &mut held, |_| true)?;
        links::update_lookups(&programs, options)?;
        held.client_ops = Some(links::attach_to_agent(&programs, &agent_cgroup)?);
        let index = pods::Index::read(&maps)?;
        let devices = device::Devices::read(&maps)?;
        let opened = Self {
            options: options.clone(),
            programs,
            maps,
            pods: Mutex::new(index),
            events: Mutex::new(Some(EventStream::new(events))),
            links: Mutex::new(held),
            devices: Mutex::new(devices),
            agent_cgroup,
            kubelet: Mutex::default(),
            ownerless: Mutex::default(),
            pods_level: AtomicU32::new(0),
        };
        opened.first_look_at_kubelet()?;
        Ok(opened)
    }

    /// Marks a socket as the agent's, and those that it will accept. To be called before it
    /// connects out of a pod's namespace: where the agent itself is below the pods cgroup,
    /// the programs let no other foreigner through, and would show its sockets the peers
    /// that applications are shown.
    ///
    /// # Errors
    /// Those of the kernel, which may lack memory for it.
    pub fn claim_socket(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        sys::update(self.maps.agent_sockets.as_fd(), &socket.as_raw_fd(), &1u32)
    }

    /// The original destination of the connection that `accepted` is, a socket from one of
    /// this agent's listeners, and the cgroup id of its pod. `None` for a connection that was
    /// not redirected. The socket itself has it, so it cannot be another connection's.
    pub fn original_destination(&self, accepted: BorrowedFd<'_>) -> Option<(OriginalDst, u64)> {
        let key = accepted.as_raw_fd();
        let found = sys::lookup::<_, Destination>(self.maps.accepted.as_fd(), &key);
        let wanted = found.ok().flatten()?;
        let ip = addr::from_bytes(wanted.ip.bytes);
        let destination = OriginalDst(SocketAddr::new(ip, wanted.port));
        Some((destination, wanted.cgroup_id))
    }

    /// Shows `client` as its peer to the application that accepts the connection which
    /// `socket` is about to open. To be called before `connect()`, from the agent's own
    /// cgroup; [`Self::is_client_published`] answers afterwards whether it worked.
    ///
    /// # Errors
    /// Those of the kernel, which may lack memory for it.
    pub fn publish_client(&self, socket: BorrowedFd<'_>, client: ClientAddr) -> io::Result<()> {
        let value = Client {
            ip: ip_of(client.0.ip()),
            port: client.0.port(),
            state: 0,
            sequence: 0,
        };
        sys::update(self.maps.client_of.as_fd(), &socket.as_raw_fd(), &value)
    }

    /// Whether the programs have published the client of a connection that `socket` has
    /// opened. Where they have not, the application would see the agent as its client.
    pub fn is_client_published(&self, socket: BorrowedFd<'_>) -> bool {
        let key = socket.as_raw_fd();
        let found = sys::lookup::<_, Client>(self.maps.client_of.as_fd(), &key);
        found.is_ok_and(|client| client.is_some_and(|it| it.state == CLIENT_PUBLISHED))
    }

    /// What the programs have counted, since the maps were made.
    ///
    /// # Errors
    /// Those of reading a map.
    pub fn counters(&self) -> Result<Counters, InterceptError> {
        Counters::read(self.maps.counters.as_fd())
    }

    /// The refusals and drops that the programs tell of; `None` after the first
    /// call, since the ring has one reader.
    pub fn events(&self) -> Option<EventStream> {
        let mut events = self.events.lock().unwrap_or_else(|dead| dead.into_inner());
        events.take()
    }

    /// Whether another agent has put its programs in the place of this one's, and
    /// enrols and releases from now on.
    ///
    /// # Errors
    /// Those of asking the kernel.
    pub fn is_superseded(&self) -> Result<bool, InterceptError> {
        links::is_superseded(&self.programs, &self.options.pin_dir, &self.links())
    }

    /// Takes everything out of the kernel and off the disk, for good, unless another agent has
    /// taken it over: false then. This agent is of no use afterwards.
    ///
    /// # Errors
    /// As [`remove_all`], and those of asking the kernel.
    pub fn remove(&self) -> Result<bool, InterceptError> {
        // No other agent can take it over meanwhile.
        let _lock = pins::lock(&self.options.pin_dir)?;
        if self.is_superseded()? {
            return Ok(false);
        }
        remove_all(&self.options.pin_dir)?;
        Ok(true)
    }

    /// The programs' attachments to the pods cgroup and to the agent's, as the
    /// kernel has them now.
    pub fn attachments(&self) -> Vec<Attachment> {
        links::held_attachments(&self.links())
    }

    fn links(&self) -> MutexGuard<'_, links::Held> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ip_of(ip: IpAddr) -> mesh_common::ip::Ip {
    mesh_common::ip::Ip {
        bytes: addr::to_bytes(ip),
    }
}
