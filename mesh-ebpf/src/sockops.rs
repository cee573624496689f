//! sock_ops at the moment a connection has chosen its source port and not yet
//! sent its SYN: what is known by socket is published by source address, under
//! which the other end will meet it. No entry can come too late.

use crate::maps::{CLIENT_OF, CLIENTS, DESTINATIONS, ORIGINAL, storage_ptr};
use crate::report;
use aya_ebpf::bindings::{BPF_SOCK_OPS_TCP_CONNECT_CB, bpf_sock_ops};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_sk_storage_get};
use aya_ebpf::programs::SockOpsContext;
use core::ptr;
use mesh_common::counters::Counter;
use mesh_common::ip::Ip;
use mesh_common::maps::{Client, Destination, Endpoint};

/// What the programs return; the kernel only asks that it be no error.
pub const DONE: u32 = 1;
pub const AF_INET: u32 = 2;

/// A pod's socket: the agent finds the original destination by its source.
#[inline(always)]
pub fn pod_connects(ctx: &SockOpsContext) -> u32 {
    if ctx.op() != BPF_SOCK_OPS_TCP_CONNECT_CB {
        return DONE;
    }
    let source = source(ctx.ops);
    // An agent in the pods cgroup, whose own program has published the client by
    // now: a cgroup's programs run before those of the cgroups above it.
    if stored::<Client>(ctx.ops, &CLIENT_OF).is_none() {
        // A port that the agent once used towards an application may now be an
        // application's own.
        let _absent = CLIENTS.remove(source);
    }
    let Some(wanted) = stored::<Destination>(ctx.ops, &ORIGINAL) else {
        // Nor may a connection straight to the agent's listener find what an
        // earlier one from the same port has left untaken.
        let _absent = DESTINATIONS.remove(source);
        return DONE;
    };
    // SAFETY: not null, and it lives as long as the socket.
    let wanted = unsafe { *wanted };
    if DESTINATIONS.insert(source, wanted, 0).is_err() {
        report::count(Counter::UnpublishedDestination);
    }
    DONE
}

/// A socket of the agent: an application that accepts it is shown the client.
#[inline(always)]
pub fn agent_connects(ctx: &SockOpsContext) -> u32 {
    if ctx.op() != BPF_SOCK_OPS_TCP_CONNECT_CB {
        return DONE;
    }
    if let Some(client) = stored::<Client>(ctx.ops, &CLIENT_OF) {
        // SAFETY: not null, and it lives as long as the socket.
        let client = unsafe { *client };
        // Without its entry the application sees the agent's address: true,
        // though less useful. No reason to fail the connection.
        let _full = CLIENTS.insert(source(ctx.ops), client, 0);
    }
    DONE
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

/// The connection's own end. An IPv6 socket that connects to a v4-mapped
/// address has its own v4-mapped address set by now, so both forms of socket
/// give the same key.
#[inline(always)]
fn source(ops: *mut bpf_sock_ops) -> Endpoint {
    let (ip, port) = local(ops);
    // SAFETY: `ops` is the program's context.
    let netns_cookie = unsafe { bpf_get_netns_cookie(ops.cast()) };
    Endpoint::new(netns_cookie, ip, port)
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
        (ip, (*ops).local_port as u16)
    }
}
