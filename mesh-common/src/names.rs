//! Names of programs, maps and pinned links, as `bpftool` shows them. The
//! kernel keeps 15 characters of a program's or a map's name. `mesh-ebpf`
//! spells them out again, since attributes take literals only; loading fails
//! when the two differ.

/// cgroup/connect4: redirects IPv4 connections.
pub const CONNECT4: &str = "isthmus_conn4";
/// cgroup/connect6: redirects IPv6 and v4-mapped connections.
pub const CONNECT6: &str = "isthmus_conn6";
/// cgroup/getpeername4: shows the original destination or the real client.
pub const PEERNAME4: &str = "isthmus_peer4";
/// cgroup/getpeername6: the same for IPv6 and v4-mapped sockets.
pub const PEERNAME6: &str = "isthmus_peer6";
/// sock_ops on the pods cgroup: publishes original destinations, and stores the client of
/// each connection that an application accepts.
pub const SOCK_OPS: &str = "isthmus_sockops";
/// sock_ops on the agent's cgroup: publishes clients, and stores the original destination of
/// each connection that the agent accepts.
pub const CLIENT_OPS: &str = "isthmus_clients";
/// sock_ops on the kubelet's cgroup: writes down the tuples of its connections.
pub const KUBELET_OPS: &str = "isthmus_kubelet";
/// sk_lookup in every enrolled pod's namespace: hands inbound to the agent.
pub const SK_LOOKUP: &str = "isthmus_lookup";
/// cgroup_skb ingress: the guard on what arrives.
pub const GUARD_INGRESS: &str = "isthmus_ingress";
/// cgroup_skb egress: the guard on what leaves.
pub const GUARD_EGRESS: &str = "isthmus_egress";
/// tc ingress on every device of an enrolled pod but `lo`.
pub const DEVICE_INGRESS: &str = "isthmus_dev_in";
/// tc egress on every device of an enrolled pod but `lo`.
pub const DEVICE_EGRESS: &str = "isthmus_dev_out";

/// Hash: netns cookie → [`crate::maps::Pod`].
pub const PODS: &str = "isthmus_pods";
/// Hash: cgroup id → [`crate::maps::Cgroup`].
pub const CGROUPS: &str = "isthmus_cgroups";
/// Hash: [`crate::maps::Endpoint`] of a redirected connection whose handshake is under way
/// → [`crate::maps::Destination`].
pub const DESTINATIONS: &str = "isthmus_dests";
/// Socket storage of the pods' sockets: [`crate::maps::Destination`].
pub const ORIGINAL: &str = "isthmus_orig";
/// Socket storage of the agent's sockets: [`crate::maps::Client`].
pub const CLIENT_OF: &str = "isthmus_client";
/// Hash: [`crate::maps::Endpoint`] of a connection of the agent to an application whose
/// handshake is under way → [`crate::maps::Client`].
pub const CLIENTS: &str = "isthmus_realip";
/// Socket storage of the connections that the agent has accepted:
/// [`crate::maps::Destination`].
pub const ACCEPTED: &str = "isthmus_accept";
/// Socket storage of the connections that applications have accepted from the agent:
/// [`crate::maps::Client`].
pub const PEERS: &str = "isthmus_peer";
/// Hash: netns cookie → [`crate::maps::Usage`].
pub const USAGE: &str = "isthmus_usage";
/// Sockhash: own [`crate::ip::Ip`] → the agent's listener in that pod.
pub const LISTENERS: &str = "isthmus_listen";
/// Socket storage of the agent's sockets, inherited by those that they accept: u32.
/// Only who holds the map can write it, so that it says whose a socket is.
pub const AGENT_SOCKETS: &str = "isthmus_agent";
/// Hash: [`crate::maps::Tuple`] → [`crate::maps::Probe`].
pub const PROBES: &str = "isthmus_probes";
/// Array: number of a pod → [`crate::maps::Device`].
pub const DEVICES: &str = "isthmus_devices";
/// Array: number of a pod → [`crate::maps::Forwarded`].
pub const FORWARDED: &str = "isthmus_forward";
/// Per-CPU array: [`crate::counters::Counter`] → u64.
pub const COUNTERS: &str = "isthmus_count";
/// Per-CPU array of one [`crate::maps::EventBudget`].
pub const EVENT_BUDGET: &str = "isthmus_budget";
/// Ring buffer of [`crate::event::Event`].
pub const EVENTS: &str = "isthmus_events";
/// Array of one [`crate::maps::Meta`].
pub const META: &str = "isthmus_meta";

/// Every map that is pinned, and so outlives the agent. The ring of events is
/// not: two agents that overlap in an upgrade would read it from under each
/// other.
pub const PINNED_MAPS: [&str; 17] = [
    PODS,
    CGROUPS,
    DESTINATIONS,
    ORIGINAL,
    CLIENT_OF,
    CLIENTS,
    ACCEPTED,
    PEERS,
    USAGE,
    LISTENERS,
    AGENT_SOCKETS,
    PROBES,
    DEVICES,
    FORWARDED,
    COUNTERS,
    EVENT_BUDGET,
    META,
];

/// Directory of pinned maps below the pin directory.
pub const MAPS_DIR: &str = "maps";
/// Directory of pinned links below the pin directory.
pub const LINKS_DIR: &str = "links";
/// The pinned link on the kubelet's cgroup.
pub const KUBELET_LINK: &str = "kubelet";
/// Prefix of a pinned sk_lookup link; the pod's netns cookie follows in decimal.
pub const LOOKUP_LINK_PREFIX: &str = "sk_lookup_";
