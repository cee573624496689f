//! The maps, under the names of `mesh_common::names` (attributes take literals
//! only, so they are spelled out here; loading fails where the two differ).

use aya_ebpf::bindings::bpf_map_type::{BPF_MAP_TYPE_SK_STORAGE, BPF_MAP_TYPE_SOCKHASH};
use aya_ebpf::bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC, bpf_sock};
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray, RingBuf, SkStorage};
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::macros::btf_map;
use core::ffi::c_void;
use core::ptr;
use mesh_common::counters::Counter;
use mesh_common::event::{EVENT_BUDGETS, Event};
use mesh_common::ip::Ip;
use mesh_common::maps::{
    Cgroup, Client, Destination, Device, EVENTS_BYTES, Endpoint, EventBudget, Forwarded,
    MAX_CLIENTS, MAX_DESTINATIONS, MAX_DEVICES, MAX_LISTENERS, MAX_PODS, MAX_PROBES, Meta, Pod,
    Probe, Tuple, Usage,
};

/// Memory for an entry is allocated when it is inserted. The size of such a map bounds it and
/// costs 16 bytes an entry; what the entries take depends on how many there are.
const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

/// Netns cookie → pod.
#[btf_map(name = "isthmus_pods")]
pub static PODS: HashMap<u64, Pod, MAX_PODS> = HashMap::new();

/// Cgroup id → the guard's view of the pod.
#[btf_map(name = "isthmus_cgroups")]
pub static CGROUPS: HashMap<u64, Cgroup, MAX_PODS> = HashMap::new();

/// Redirected connection whose handshake is under way → its original destination.
#[btf_map(name = "isthmus_dests")]
pub static DESTINATIONS: HashMap<Endpoint, Destination, MAX_DESTINATIONS, ON_DEMAND> =
    HashMap::new();

/// Socket that the agent has accepted → original destination of the connection.
#[btf_map(name = "isthmus_accept")]
pub static ACCEPTED: SkStorage<Destination> = SkStorage::new();

/// Socket of a pod → where it wanted to go.
#[btf_map(name = "isthmus_orig")]
pub static ORIGINAL: SkStorage<Destination> = SkStorage::new();

/// Socket of the agent → the client on whose behalf it connects.
#[btf_map(name = "isthmus_client")]
pub static CLIENT_OF: SkStorage<Client> = SkStorage::new();

/// Connection of the agent to an application whose handshake is under way → its client.
#[btf_map(name = "isthmus_realip")]
pub static CLIENTS: HashMap<Endpoint, Client, MAX_CLIENTS, ON_DEMAND> = HashMap::new();

/// Socket that an application has accepted from the agent → the connection's client.
#[btf_map(name = "isthmus_peer")]
pub static PEERS: SkStorage<Client> = SkStorage::new();

/// Netns cookie → how many entries the pod has in the two maps of handshakes.
#[btf_map(name = "isthmus_usage")]
pub static USAGE: HashMap<u64, Usage, { 2 * MAX_PODS }, ON_DEMAND> = HashMap::new();

/// A pod's own address → the agent's listener in that pod.
#[btf_map(name = "isthmus_listen")]
pub static LISTENERS: ListenerHash = ListenerHash::new();

/// Sockets that are the agent's.
#[btf_map(name = "isthmus_agent")]
pub static AGENT_SOCKETS: AgentSockets = AgentSockets::new();

/// Connection that the kubelet has opened → when, and whether it closed it.
#[btf_map(name = "isthmus_probes")]
pub static PROBES: HashMap<Tuple, Probe, MAX_PROBES, ON_DEMAND> = HashMap::new();

/// Number of a pod → the pod, as its devices' programs see it.
#[btf_map(name = "isthmus_devices")]
pub static DEVICES: Array<Device, MAX_DEVICES> = Array::new();

/// Number of a pod → what it forwarded.
#[btf_map(name = "isthmus_forward")]
pub static FORWARDED: Array<Forwarded, MAX_DEVICES> = Array::new();

/// Counter → count on this CPU.
#[btf_map(name = "isthmus_count")]
pub static COUNTERS: PerCpuArray<u64, { Counter::COUNT }> = PerCpuArray::new();

/// How many events this CPU may still send of the pods that share a budget.
#[btf_map(name = "isthmus_budget")]
pub static EVENT_BUDGET: PerCpuArray<EventBudget, EVENT_BUDGETS> = PerCpuArray::new();

/// Refusals and drops, for the agent's log.
#[btf_map(name = "isthmus_events")]
pub static EVENTS: RingBuf<Event, EVENTS_BYTES> = RingBuf::new();

/// What the agent and the programs tell each other about the whole.
#[btf_map(name = "isthmus_meta")]
pub static META: Array<Meta, 1> = Array::new();

/// A sockhash with 8-byte values. aya-ebpf's has 4-byte values, and of those
/// the kernel shows userspace nothing; of these it shows the socket's cookie,
/// so that the agent can see whether a listener is in its slot.
pub type ListenerHash = Definition<Ip, u64, { BPF_MAP_TYPE_SOCKHASH as usize }, MAX_LISTENERS, 0>;

/// A socket storage whose values go over to the sockets that a listener accepts;
/// aya-ebpf's has no such flag.
pub type AgentSockets = Definition<
    i32,
    u32,
    { BPF_MAP_TYPE_SK_STORAGE as usize },
    0,
    { (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize },
>;

/// A map as the loader reads it from its type, for those that aya-ebpf does not have.
#[repr(C)]
pub struct Definition<K, V, const TYPE: usize, const MAX: usize, const FLAGS: usize> {
    r#type: *const [i32; TYPE],
    key: *const K,
    value: *const V,
    max_entries: *const [i32; MAX],
    map_flags: *const [i32; FLAGS],
}

// SAFETY: nothing is ever read through it.
unsafe impl<K, V, const TYPE: usize, const MAX: usize, const FLAGS: usize> Sync
    for Definition<K, V, TYPE, MAX, FLAGS>
{
}

impl<K, V, const TYPE: usize, const MAX: usize, const FLAGS: usize>
    Definition<K, V, TYPE, MAX, FLAGS>
{
    const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }

    /// The map, as helpers take it.
    #[inline(always)]
    pub fn as_ptr(&self) -> *mut c_void {
        ptr::from_ref(self).cast_mut().cast()
    }
}

impl AgentSockets {
    /// Whether the socket is the agent's.
    ///
    /// # Safety
    /// `sk` is the socket of the program's context, and the verifier knows that
    /// it is not null.
    #[inline(always)]
    pub unsafe fn contains(&self, sk: *mut bpf_sock) -> bool {
        // SAFETY: the caller's promise; nothing is created.
        let found = unsafe { bpf_sk_storage_get(self.as_ptr(), sk.cast(), ptr::null_mut(), 0) };
        !found.is_null()
    }
}

/// A socket storage map as helpers take it, for programs other than sock_addr.
#[inline(always)]
pub fn storage_ptr<T>(map: &'static SkStorage<T>) -> *mut c_void {
    ptr::from_ref(map).cast_mut().cast()
}
