//! sock_ops: what the opening socket of a connection knows is handed over to the socket that
//! accepts it, in the same namespace (see `mesh_common::handshake`). The opening socket
//! publishes it under the connection's addresses when the SYN-ACK has arrived and the last
//! ACK is not sent yet; the accepting socket takes it into its own storage when that ACK
//! arrives. The entry is removed then, or when the opening socket is closed. It exists for
//! microseconds, and no entry of another pod can displace it: each pod has a budget.

use crate::maps::{
    ACCEPTED, AGENT_SOCKETS, CLIENT_OF, CLIENTS, DESTINATIONS, ORIGINAL, PEERS, USAGE, storage_ptr,
};
use crate::{probe, report};
use aya_ebpf::bindings::{
    BPF_ANY, BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB,
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
    BPF_TCP_CLOSE, bpf_sock_ops,
};
use aya_ebpf::btf_maps::{HashMap, SkStorage};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_sk_storage_get};
use aya_ebpf::programs::SockOpsContext;
use core::intrinsics::{AtomicOrdering, atomic_xadd};
use core::ptr;
use mesh_common::counters::Counter;
use mesh_common::handshake::{has_room, is_same_connection};
use mesh_common::ip::Ip;
use mesh_common::maps::{
    CLIENT_BY_TUPLE, CLIENT_PUBLISHED, CLIENTS_PER_POD, Client, DESTINATIONS_PER_POD, Destination,
    Endpoint, Usage,
};

/// The programs' return value; the kernel requires only that it is no error.
pub const DONE: u32 = 1;
pub const AF_INET: u32 = 2;

/// A TCP event of a pod's socket.
#[inline(always)]
pub fn pod_event(ctx: &SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => publish_destination(ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => application_accepts(ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => pod_socket_closes(ctx),
        _ => {}
    }
    DONE
}

/// A TCP event of one of the agent's sockets.
#[inline(always)]
pub fn agent_event(ctx: &SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => publish_client(ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => agent_accepts(ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => agent_socket_closes(ctx),
        _ => {}
    }
    DONE
}

#[inline(always)]
fn agent_socket_closes(ctx: &SockOpsContext) {
    if stored::<Client>(ctx.ops, &CLIENT_OF).is_some() {
        let key = opened(ctx.ops);
        // SAFETY: a place in a map's element.
        withdraw(&CLIENTS, &key, |usage| unsafe { &raw mut (*usage).clients });
    }
}

/// The agent must learn the original destination of a redirected connection.
#[inline(always)]
fn publish_destination(ctx: &SockOpsContext) {
    let Some(wanted) = stored::<Destination>(ctx.ops, &ORIGINAL) else {
        return;
    };
    // SAFETY: not null, and it lives as long as the socket.
    let mut wanted = unsafe { *wanted };
    // SAFETY: `ops` is the program's context.
    wanted.sequence = unsafe { (&raw const (*ctx.ops).snd_una).read_volatile() };
    let published = publish(
        ctx,
        &DESTINATIONS,
        &wanted,
        DESTINATIONS_PER_POD,
        // SAFETY: a place in a map's element.
        |usage| unsafe { &raw mut (*usage).destinations },
    );
    if !published {
        report::count(Counter::UnpublishedDestination);
    }
}

/// The application must see the client behind a connection of the agent. Where that fails,
/// the agent finds no mark in the socket's storage and closes the connection.
#[inline(always)]
fn publish_client(ctx: &SockOpsContext) {
    let Some(stored) = stored::<Client>(ctx.ops, &CLIENT_OF) else {
        return;
    };
    // SAFETY: not null, and it lives as long as the socket.
    let mut client = unsafe { *stored };
    client.state = 0;
    // SAFETY: `ops` is the program's context.
    client.sequence = unsafe { (&raw const (*ctx.ops).snd_una).read_volatile() };
    // SAFETY: a place in a map's element.
    let field = |usage: *mut Usage| unsafe { &raw mut (*usage).clients };
    if publish(ctx, &CLIENTS, &client, CLIENTS_PER_POD, field) {
        // SAFETY: as above.
        unsafe { (&raw mut (*stored).state).write_volatile(CLIENT_PUBLISHED) };
    } else {
        report::count(Counter::UnpublishedClient);
    }
}

/// The agent's listener has accepted a connection; a redirected one has its destination.
#[inline(always)]
fn agent_accepts(ctx: &SockOpsContext) {
    if !is_agents(ctx.ops) {
        return;
    }
    let key = accepted(ctx.ops);
    let Some(entry) = DESTINATIONS.get_ptr_mut(key) else {
        return;
    };
    // SAFETY: not null; an element that is replaced meanwhile is another connection's, which
    // the sequence number excludes.
    let mut wanted = unsafe { *entry };
    if !is_same_connection(wanted.sequence, expected(ctx.ops)) {
        return;
    }
    wanted.sequence = 0;
    if create(ctx.ops, &ACCEPTED, &mut wanted) {
        // SAFETY: a place in a map's element.
        withdraw(&DESTINATIONS, &key, |usage| unsafe {
            &raw mut (*usage).destinations
        });
    }
}

/// An application has accepted a connection: of the agent, of the kubelet, or of its own pod.
#[inline(always)]
fn application_accepts(ctx: &SockOpsContext) {
    if is_agents(ctx.ops) {
        return;
    }
    // Read once: of two reads the compiler makes one by an address into the context, which
    // the verifier refuses.
    let (local, remote) = (local(ctx.ops), remote(ctx.ops));
    let key = connection(ctx.ops, remote, local.1);
    let Some(entry) = CLIENTS.get_ptr_mut(key) else {
        return probe::pod_accepts(ctx, remote, local);
    };
    // SAFETY: as in `agent_accepts`.
    let mut client = unsafe { *entry };
    if !is_same_connection(client.sequence, expected(ctx.ops)) {
        return;
    }
    client.sequence = 0;
    if create(ctx.ops, &PEERS, &mut client) {
        // SAFETY: a place in a map's element.
        withdraw(&CLIENTS, &key, |usage| unsafe { &raw mut (*usage).clients });
    } else {
        // SAFETY: not null, and the element stays allocated while the program runs.
        unsafe { (&raw mut (*entry).state).write_volatile(CLIENT_BY_TUPLE) };
    }
}

#[inline(always)]
fn pod_socket_closes(ctx: &SockOpsContext) {
    let (local, remote) = (local(ctx.ops), remote(ctx.ops));
    if stored::<Destination>(ctx.ops, &ORIGINAL).is_some() {
        let key = connection(ctx.ops, local, remote.1);
        // SAFETY: a place in a map's element.
        withdraw(&DESTINATIONS, &key, |usage| unsafe {
            &raw mut (*usage).destinations
        });
    } else {
        probe::pod_closes(remote, local);
    }
}

/// Publishes `value` under the connection that the context's socket opens, within the budget
/// of its pod, and has the kernel report the socket's end.
#[inline(always)]
fn publish<V, const MAX: usize, const FLAGS: usize>(
    ctx: &SockOpsContext,
    map: &'static HashMap<Endpoint, V, MAX, FLAGS>,
    value: &V,
    budget: usize,
    field: impl Fn(*mut Usage) -> *mut i64,
) -> bool {
    let key = opened(ctx.ops);
    let Some(usage) = usage(key.netns_cookie) else {
        return false;
    };
    let used = field(usage);
    // SAFETY: not null, and the element stays allocated while the program runs.
    if !has_room(unsafe { used.read_volatile() }, budget) {
        return false;
    }
    let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
    if ctx.set_cb_flags(flags as i32).is_err() {
        return false;
    }
    // An entry under this key is of a connection that has ended.
    if map.insert(key, value, u64::from(BPF_NOEXIST)).is_ok() {
        add(used, 1);
        return true;
    }
    map.get_ptr(key).is_some() && map.insert(key, value, u64::from(BPF_ANY)).is_ok()
}

/// Removes an entry, if it is there, and gives its place back to the pod.
#[inline(always)]
fn withdraw<V, const MAX: usize, const FLAGS: usize>(
    map: &'static HashMap<Endpoint, V, MAX, FLAGS>,
    key: &Endpoint,
    field: impl Fn(*mut Usage) -> *mut i64,
) {
    if map.remove(key).is_ok()
        && let Some(usage) = USAGE.get_ptr_mut(key.netns_cookie)
    {
        add(field(usage), -1);
    }
}

#[inline(always)]
fn usage(netns_cookie: u64) -> Option<*mut Usage> {
    if let Some(usage) = USAGE.get_ptr_mut(netns_cookie) {
        return Some(usage);
    }
    let none = Usage {
        destinations: 0,
        clients: 0,
    };
    // Another CPU may have inserted it since.
    let _exists = USAGE.insert(netns_cookie, none, u64::from(BPF_NOEXIST));
    USAGE.get_ptr_mut(netns_cookie)
}

/// Adds atomically; the target has no `AtomicI64`.
#[inline(always)]
fn add(value: *mut i64, change: i64) {
    // SAFETY: `value` is in an element of a map, aligned to 8 bytes, which stays allocated
    // while the program runs.
    let _before = unsafe { atomic_xadd::<i64, i64, { AtomicOrdering::Relaxed }>(value, change) };
}

#[inline(always)]
fn stored<T>(ops: *mut bpf_sock_ops, map: &'static SkStorage<T>) -> Option<*mut T> {
    // SAFETY: `ops` is the program's context; the verifier checks each access,
    // and that the socket is not null when it is passed on.
    let value = unsafe {
        let sk = (*ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return None;
        }
        bpf_sk_storage_get(storage_ptr(map), sk.cast(), ptr::null_mut(), 0)
    };
    (!value.is_null()).then_some(value.cast())
}

/// Stores `value` with the context's socket, which has none yet.
#[inline(always)]
fn create<T>(ops: *mut bpf_sock_ops, map: &'static SkStorage<T>, value: &mut T) -> bool {
    let flags = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
    let value = ptr::from_mut(value).cast();
    // SAFETY: as in `stored`; `value` is of the map's type.
    unsafe {
        let sk = (*ops).__bindgen_anon_2.sk;
        !sk.is_null() && !bpf_sk_storage_get(storage_ptr(map), sk.cast(), value, flags).is_null()
    }
}

#[inline(always)]
fn is_agents(ops: *mut bpf_sock_ops) -> bool {
    // SAFETY: as in `stored`.
    unsafe {
        let sk = (*ops).__bindgen_anon_2.sk;
        !sk.is_null() && AGENT_SOCKETS.contains(sk)
    }
}

/// The connection that the context's socket opens. An IPv6 socket that connects to a
/// v4-mapped address has its own v4-mapped address set by now, so both forms of socket give
/// the same key.
#[inline(always)]
fn opened(ops: *mut bpf_sock_ops) -> Endpoint {
    let (local, remote) = (local(ops), remote(ops));
    connection(ops, local, remote.1)
}

/// The connection that the context's socket accepts.
#[inline(always)]
fn accepted(ops: *mut bpf_sock_ops) -> Endpoint {
    let (local, remote) = (local(ops), remote(ops));
    connection(ops, remote, local.1)
}

/// The connection from `source` to a port, in the namespace of the context's socket.
#[inline(always)]
fn connection(ops: *mut bpf_sock_ops, source: (Ip, u16), to_port: u16) -> Endpoint {
    let (ip, port) = source;
    // SAFETY: `ops` is the program's context.
    let netns_cookie = unsafe { bpf_get_netns_cookie(ops.cast()) };
    Endpoint::new(netns_cookie, ip, port, to_port)
}

/// The sequence number that an accepting socket expects next.
#[inline(always)]
fn expected(ops: *const bpf_sock_ops) -> u32 {
    // SAFETY: `ops` is the program's context.
    unsafe { (&raw const (*ops).rcv_nxt).read_volatile() }
}

/// The socket's own address and port.
#[inline(always)]
pub fn local(ops: *const bpf_sock_ops) -> (Ip, u16) {
    // SAFETY: `ops` is the program's context. Word by word and volatile, since
    // the verifier refuses merged accesses.
    unsafe {
        let ip = if (*ops).family == AF_INET {
            Ip::from_v4_word((*ops).local_ip4)
        } else {
            Ip::from_words([
                (&raw const (*ops).local_ip6[0]).read_volatile(),
                (&raw const (*ops).local_ip6[1]).read_volatile(),
                (&raw const (*ops).local_ip6[2]).read_volatile(),
                (&raw const (*ops).local_ip6[3]).read_volatile(),
            ])
        };
        (ip, (&raw const (*ops).local_port).read_volatile() as u16)
    }
}

/// The address and port of the socket's peer.
#[inline(always)]
pub fn remote(ops: *const bpf_sock_ops) -> (Ip, u16) {
    // SAFETY: as in `local`.
    unsafe {
        let ip = if (*ops).family == AF_INET {
            Ip::from_v4_word((*ops).remote_ip4)
        } else {
            Ip::from_words([
                (&raw const (*ops).remote_ip6[0]).read_volatile(),
                (&raw const (*ops).remote_ip6[1]).read_volatile(),
                (&raw const (*ops).remote_ip6[2]).read_volatile(),
                (&raw const (*ops).remote_ip6[3]).read_volatile(),
            ])
        };
        // In network order, in the upper half of a little-endian word.
        let port = (&raw const (*ops).remote_port).read_volatile();
        (ip, u32::from_be(port) as u16)
    }
}
