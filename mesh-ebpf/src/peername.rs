//! cgroup/getpeername4 and getpeername6: an application that asks for its peer
//! is told the destination it asked for (outbound), or the real client instead
//! of the agent (inbound). `accept()`'s address comes from the same hook.

use crate::connect::{port_of, user_ip6, write_user_ip6};
use crate::maps::{CLIENTS, ORIGINAL, PEERS, storage_ptr};
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_sk_storage_get};
use aya_ebpf::programs::SockAddrContext;
use core::ptr;
use mesh_common::connect::is_captured;
use mesh_common::ip::Ip;
use mesh_common::maps::{CLIENT_BY_TUPLE, Client, Endpoint};

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
    // SAFETY: `addr` is the program's context, and its socket is never null; nothing is
    // created.
    let peer_of = unsafe {
        let sk = (*addr).__bindgen_anon_1.sk;
        bpf_sk_storage_get(storage_ptr(&PEERS), sk.cast(), ptr::null_mut(), 0).cast::<Client>()
    };
    if !peer_of.is_null() {
        // SAFETY: not null, and it lives as long as the socket.
        return unsafe { Some(((*peer_of).ip, (*peer_of).port)) };
    }
    // SAFETY: `addr` is the program's context.
    let (netns_cookie, port, own_port) = unsafe {
        let sk = (*addr).__bindgen_anon_1.sk;
        let own_port = (&raw const (*sk).src_port).read_volatile() as u16;
        (bpf_get_netns_cookie(addr.cast()), port_of(addr), own_port)
    };
    // SAFETY: an entry is removed when the connection has ended. Were its memory reused
    // while it is read, a wrong address would be shown; nothing decides by it.
    let client = unsafe { CLIENTS.get(Endpoint::new(netns_cookie, peer, port, own_port)) }?;
    (client.state == CLIENT_BY_TUPLE).then_some((client.ip, client.port))
}
