//! Keys and values of the maps. Every struct is `repr(C)` without implicit
//! padding, since the kernel compares keys byte by byte and refuses to read
//! uninitialised bytes; the asserts at the end hold the layout still.

use crate::ip::Ip;

/// How many pods an agent can enrol; a node of Kubernetes runs 110 by default
/// and some hundreds at most.
pub const MAX_PODS: usize = 1024;
/// How many listener slots there are: one per address, two families a pod.
pub const MAX_LISTENERS: usize = 2 * MAX_PODS;
/// Redirected connections of one pod whose handshake is under way. An entry lives from the
/// SYN-ACK to the last ACK of its handshake, microseconds on loopback.
pub const DESTINATIONS_PER_POD: usize = 256;
/// Connections of the agent to one pod's application whose handshake is under way. A
/// listener with `TCP_DEFER_ACCEPT` extends it to the first byte of data.
pub const CLIENTS_PER_POD: usize = 512;
/// Entries of the map of original destinations: every pod's budget fits.
pub const MAX_DESTINATIONS: usize = MAX_PODS * DESTINATIONS_PER_POD;
/// Entries of the map of clients: every pod's budget fits.
pub const MAX_CLIENTS: usize = MAX_PODS * CLIENTS_PER_POD;
/// Connections of the kubelet that are open, or that the pod's end has not closed yet. An
/// entry is removed when both ends are closed.
pub const MAX_PROBES: usize = 32_768;
/// Numbers of pods in the device maps. Number 0 is no pod's: it is the class id
/// of a filter that has none.
pub const MAX_DEVICES: usize = MAX_PODS + 1;
/// Bytes of the ring of events; a power of two and a multiple of the page size.
pub const EVENTS_BYTES: usize = 256 * 1024;

/// Deepest pod cgroup below the pods cgroup. Kubernetes uses one or two levels.
pub const MAX_DEPTH: u32 = 8;
/// Deepest cgroup that a program looks for as the pods cgroup itself.
pub const MAX_PODS_LEVEL: u32 = 24;

/// [`Pod::flags`]: the pod has an IPv4 address.
pub const POD_HAS_V4: u32 = 1 << 0;
/// [`Pod::flags`]: the pod has an IPv6 address.
pub const POD_HAS_V6: u32 = 1 << 1;
/// [`Cgroup::flags`]: the guard lets no TCP pass that is not local.
pub const CGROUP_STRICT: u32 = 1 << 0;

/// An enrolled pod; the key is the cookie of its network namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Id of the pod's cgroup: who may connect as this pod.
    pub cgroup_id: u64,
    /// Levels of the pod's cgroup below the pods cgroup, 1 to [`MAX_DEPTH`].
    pub depth: u32,
    /// `POD_*`.
    pub flags: u32,
    /// The pod's own IPv4 address, v4-mapped; valid with [`POD_HAS_V4`].
    pub ipv4: Ip,
    /// The pod's own IPv6 address; valid with [`POD_HAS_V6`].
    pub ipv6: Ip,
    /// Port of the agent's listener in the pod's namespace, host order.
    pub port: u16,
    /// Zero.
    pub reserved: [u8; 6],
}

/// The guard's view of an enrolled pod; the key is the pod's cgroup id.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Cookie of the pod's network namespace, for events and for clearing up.
    pub netns_cookie: u64,
    /// `CGROUP_*`.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

/// An enrolled pod as the programs on its devices see it; the key is the number
/// that the filters carry as their class id. All zero: no pod has the number.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Cookie of the pod's network namespace; 0 where no pod has the number.
    pub netns_cookie: u64,
    /// Id of the pod's cgroup, for events.
    pub cgroup_id: u64,
    /// The pod's own IPv4 address, v4-mapped; unspecified when it has none.
    pub ipv4: Ip,
    /// The pod's own IPv6 address; unspecified when it has none.
    pub ipv6: Ip,
    /// `CGROUP_*`.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

/// TCP that a pod forwarded without a socket of its own; same key as [`Device`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// Packets that passed.
    pub passed: u64,
    /// Packets that were dropped.
    pub dropped: u64,
    /// When the last one passed: nanoseconds since boot, without suspend
    /// (`CLOCK_MONOTONIC`); 0 when none did.
    pub passed_ns: u64,
}

/// A TCP connection inside a pod's namespace, by the end that opened it. Key of the original
/// destinations (redirected connections) and of the clients (connections of the agent to the
/// application).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Cookie of the network namespace.
    pub netns_cookie: u64,
    /// Source address.
    pub ip: Ip,
    /// Source port, host order.
    pub port: u16,
    /// Destination port, host order.
    pub to_port: u16,
    /// Zero.
    pub reserved: [u8; 4],
}

impl Endpoint {
    /// A key with its padding set.
    #[inline(always)]
    pub fn new(netns_cookie: u64, ip: Ip, port: u16, to_port: u16) -> Self {
        Self {
            netns_cookie,
            ip,
            port,
            to_port,
            reserved: [0; 4],
        }
    }
}

/// Where an application asked to go, and which pod's cgroup it was in.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Cgroup of the pod, as the kernel attested it in `connect()`.
    pub cgroup_id: u64,
    /// Address that the application named.
    pub ip: Ip,
    /// Port that the application named, host order.
    pub port: u16,
    /// Zero.
    pub reserved: [u8; 2],
    /// The connection's first sequence number after its SYN; 0 in socket storage, where the
    /// socket itself names the connection.
    pub sequence: u32,
}

/// The real client behind a connection of the agent to an application.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Address.
    pub ip: Ip,
    /// Port, host order.
    pub port: u16,
    /// `CLIENT_*`.
    pub state: u16,
    /// As [`Destination::sequence`].
    pub sequence: u32,
}

/// [`Client::state`] in the storage of the agent's socket: the map of clients has the entry.
pub const CLIENT_PUBLISHED: u16 = 1;
/// [`Client::state`] in the map of clients: the application's socket could not store it, so
/// `getpeername` finds it here until the connection ends.
pub const CLIENT_BY_TUPLE: u16 = 2;

/// Entries that a pod has in the maps of original destinations and of clients. Signed: an
/// entry that is removed after its pod's count was reset must not look like a full budget.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Of [`DESTINATIONS_PER_POD`].
    pub destinations: i64,
    /// Of [`CLIENTS_PER_POD`].
    pub clients: i64,
}

/// A TCP connection between the kubelet and a pod.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// The kubelet's address.
    pub kubelet: Ip,
    /// The pod's address.
    pub pod: Ip,
    /// The kubelet's port, host order.
    pub kubelet_port: u16,
    /// The pod's port, host order.
    pub pod_port: u16,
}

/// What the kernel knows of a connection that the kubelet has opened.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// When it called connect(): nanoseconds since boot, without suspend
    /// (`CLOCK_MONOTONIC`).
    pub at_ns: u64,
    /// Not 0 once the kubelet's socket is closed; the pod's may not be yet.
    pub closed: u32,
    /// `PROBE_*`.
    pub pod: u32,
}

/// [`Probe::pod`]: the pod has no socket of the connection yet.
pub const PROBE_OPENING: u32 = 0;
/// [`Probe::pod`]: the pod has a socket of the connection.
pub const PROBE_ACCEPTED: u32 = 1;
/// [`Probe::pod`]: the pod's socket is closed.
pub const PROBE_ENDED: u32 = 2;

/// The single entry of the meta map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Id of the pods cgroup, to which the programs are attached.
    pub pods_cgroup_id: u64,
    /// [`crate::ABI_VERSION`] of who made the maps.
    pub abi_version: u32,
    /// Level of the pods cgroup plus one; 0 until a program has found it.
    /// Userspace cannot know it: a cgroup namespace hides what is above.
    pub pods_level: u32,
    /// Bit `d` is set when some pod's cgroup lies `d` levels below the pods
    /// cgroup, so that the guard looks at those levels and no other.
    pub depths: u32,
    /// Zero.
    pub reserved: u32,
}

/// How many events a CPU has sent in the present second.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventBudget {
    /// The present window, in units of 2^30 ns (about a second).
    pub window: u64,
    /// Events sent in it.
    pub sent: u64,
}

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<Ip>() == 16);
    assert!(size_of::<Pod>() == 56);
    assert!(offset_of!(Pod, depth) == 8);
    assert!(offset_of!(Pod, ipv4) == 16);
    assert!(offset_of!(Pod, ipv6) == 32);
    assert!(offset_of!(Pod, port) == 48);
    assert!(size_of::<Cgroup>() == 16);
    assert!(offset_of!(Cgroup, flags) == 8);
    assert!(size_of::<Device>() == 56);
    assert!(offset_of!(Device, cgroup_id) == 8);
    assert!(offset_of!(Device, ipv4) == 16);
    assert!(offset_of!(Device, ipv6) == 32);
    assert!(offset_of!(Device, flags) == 48);
    assert!(size_of::<Forwarded>() == 24);
    assert!(offset_of!(Forwarded, dropped) == 8);
    assert!(offset_of!(Forwarded, passed_ns) == 16);
    // A class id has 16 bits.
    assert!(MAX_DEVICES <= 1 << 16);
    assert!(size_of::<Endpoint>() == 32);
    assert!(offset_of!(Endpoint, ip) == 8);
    assert!(offset_of!(Endpoint, port) == 24);
    assert!(offset_of!(Endpoint, to_port) == 26);
    assert!(size_of::<Destination>() == 32);
    assert!(offset_of!(Destination, ip) == 8);
    assert!(offset_of!(Destination, port) == 24);
    assert!(offset_of!(Destination, sequence) == 28);
    assert!(size_of::<Client>() == 24);
    assert!(offset_of!(Client, port) == 16);
    assert!(offset_of!(Client, state) == 18);
    assert!(offset_of!(Client, sequence) == 20);
    assert!(size_of::<Usage>() == 16);
    assert!(size_of::<Tuple>() == 36);
    assert!(offset_of!(Tuple, pod) == 16);
    assert!(offset_of!(Tuple, kubelet_port) == 32);
    assert!(offset_of!(Tuple, pod_port) == 34);
    assert!(size_of::<Probe>() == 16);
    assert!(offset_of!(Probe, closed) == 8);
    assert!(offset_of!(Probe, pod) == 12);
    assert!(size_of::<Meta>() == 24);
    assert!(offset_of!(Meta, abi_version) == 8);
    assert!(offset_of!(Meta, pods_level) == 12);
    assert!(offset_of!(Meta, depths) == 16);
    assert!(size_of::<EventBudget>() == 16);
    assert!(EVENTS_BYTES.is_power_of_two());
};

#[cfg(feature = "user")]
mod user {
    #![expect(unsafe_code, reason = "aya::Pod is an unsafe marker trait")]
    use super::*;

    // SAFETY: repr(C), `Copy`, without padding (asserted above), and valid for
    // every bit pattern, since all fields are integers or arrays of them.
    unsafe impl aya::Pod for Pod {}
    // SAFETY: as for `Pod`.
    unsafe impl aya::Pod for Cgroup {}
    // SAFETY: as for `Pod`.
    unsafe impl aya::Pod for Device {}
    // SAFETY: as for `Pod`.
    unsafe impl aya::Pod for Forwarded {}
    // SAFETY: as for `Pod`.
    unsafe impl aya::Pod for Endpoint {}
    // SAFETY: as for `Pod`.
    unsafe impl aya::Pod for Destination {}
    // SAFETY: as for `Pod`.
    unsafe impl aya::Pod for Client {}
    // SAFETY: as for `Pod`.
    unsafe impl aya::Pod for Usage {}
    // SAFETY: as for `Pod`.
    unsafe impl aya::Pod for Tuple {}
    // SAFETY: as for `Pod`.
    unsafe impl aya::Pod for Probe {}
    // SAFETY: as for `Pod`.
    unsafe impl aya::Pod for Meta {}
    // SAFETY: as for `Pod`.
    unsafe impl aya::Pod for Ip {}
    // SAFETY: as for `Pod`.
    unsafe impl aya::Pod for crate::event::Event {}
}
