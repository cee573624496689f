//! cgroup/getpeername4 and getpeername6: an application that asks for its peer
//! is told the destination it asked for (outbound), or the real client instead
//! of the agent (inbound). `accept()`'s address comes from the same hook.

use crate::connect::{port_of, user_ip6, write_user_ip6};
use crate::maps::{AGENT_SOCKETS, CLIENTS, ORIGINAL};
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::programs::SockAddrContext;
use mesh_common::connect::is_captured;
use mesh_common::ip::Ip;
use mesh_common::maps::Endpoint;

/// The only answer that the kernel takes from these hooks.
const ALLOW: i32 = 1;

/// An IPv4 socket.
#[inline(always)]
pub fn peername4(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: `addr` is the program's context; the verifier checks each access.
    let peer = unsafe { Ip::from_v4_word((*addr).user_ip4) };
    if let Some((ip, port)) = shown(ctx, peer)
        && ip.is_v4()
    {
        let [.., word] = ip.words();
        // SAFETY: as above; getpeername4 may write address and port.
        unsafe {
            (*addr).user_ip4 = word;
            (*addr).user_port = u32::from(port.to_be());
        }
    }
    ALLOW
}

/// An IPv6 socket; IPv4 is shown v4-mapped, as the kernel itself does.
#[inline(always)]
pub fn peername6(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: as in `peername4`.
    let peer = unsafe { user_ip6(addr) };
    if let Some((ip, port)) = shown(ctx, peer) {
        // SAFETY: as in `peername4`.
        unsafe {
            write_user_ip6(addr, ip);
            (*addr).user_port = u32::from(port.to_be());
        }
    }
    ALLOW
}

/// What to show instead of `peer`, if anything.
#[inline(always)]
fn shown(ctx: &SockAddrContext, peer: Ip) -> Option<(Ip, u16)> {
    let addr: *mut bpf_sock_addr = ctx.sock_addr;
    // SAFETY: `addr` is the program's context.
    if !is_captured(unsafe { (*addr).protocol }) {
        return None;
    }
    // SAFETY: the helper reads the context's socket.
    let original = unsafe { ORIGINAL.get_ptr_mut(ctx) };
    if !original.is_null() {
        // SAFETY: not null, and it lives as long as the socket.
        return unsafe { Some(((*original).ip, (*original).port)) };
    }
    // SAFETY: `addr` is the program's context.
    let (netns_cookie, port) = unsafe { (bpf_get_netns_cookie(addr.cast()), port_of(addr)) };
    // SAFETY: an entry is written once, before the connection exists. Were it
    // evicted and its memory reused while it is read, a wrong address would be
    // shown; nothing decides by it.
    let client = unsafe { CLIENTS.get(Endpoint::new(netns_cookie, peer, port)) }?;
    // An agent in the pods cgroup is to see who really connected: another
    // connection from the same port may be the agent's own, with a client.
    // SAFETY: `addr` is the program's context, and its socket is never null.
    if unsafe { AGENT_SOCKETS.contains((*addr).__bindgen_anon_1.sk) } {
        return None;
    }
    Some((client.ip, client.port))
}
