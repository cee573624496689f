//! The kernel side of the mesh: programs on the pods' cgroup, on the agent's
//! and the kubelet's cgroups, in the pods' network namespaces and on their devices. The
//! agent's `intercept` module loads and attaches them. Each entry point below says where it is attached
//! and hands over to its module; the decisions are `mesh_common`'s.
#![no_std]
#![no_main]
#![allow(
    internal_features,
    reason = "the BPF target has no atomic types, and the counts per pod need an atomic add"
)]
#![feature(core_intrinsics)]

mod connect;
mod device;
mod guard;
mod level;
mod lookup;
mod maps;
mod packet;
mod peername;
mod probe;
mod report;
mod sockops;

use aya_ebpf::macros::{cgroup_skb, cgroup_sock_addr, classifier, sk_lookup, sock_ops};
use aya_ebpf::programs::{
    SkBuffContext, SkLookupContext, SockAddrContext, SockOpsContext, TcContext,
};

/// Pods cgroup, `connect()` of an IPv4 socket.
#[cgroup_sock_addr(connect4)]
pub fn isthmus_conn4(ctx: SockAddrContext) -> i32 {
    connect::connect4(&ctx)
}

/// Pods cgroup, `connect()` of an IPv6 socket, v4-mapped destinations included.
#[cgroup_sock_addr(connect6)]
pub fn isthmus_conn6(ctx: SockAddrContext) -> i32 {
    connect::connect6(&ctx)
}

/// Pods cgroup, `getpeername()` and the address that `accept()` returns, IPv4.
#[cgroup_sock_addr(getpeername4)]
pub fn isthmus_peer4(ctx: SockAddrContext) -> i32 {
    peername::peername4(&ctx)
}

/// Pods cgroup, the same for IPv6 sockets.
#[cgroup_sock_addr(getpeername6)]
pub fn isthmus_peer6(ctx: SockAddrContext) -> i32 {
    peername::peername6(&ctx)
}

/// Pods cgroup, TCP events.
#[sock_ops]
pub fn isthmus_sockops(ctx: SockOpsContext) -> u32 {
    sockops::pod_event(&ctx)
}

/// The agent's own cgroup, TCP events.
#[sock_ops]
pub fn isthmus_clients(ctx: SockOpsContext) -> u32 {
    sockops::agent_event(&ctx)
}

/// The kubelet's cgroup, TCP events.
#[sock_ops]
pub fn isthmus_kubelet(ctx: SockOpsContext) -> u32 {
    probe::kubelet_event(&ctx)
}

/// Every enrolled pod's network namespace, lookup of a socket for a packet.
#[sk_lookup]
pub fn isthmus_lookup(ctx: SkLookupContext) -> u32 {
    lookup::inbound(&ctx)
}

/// Pods cgroup, packets that arrive at its sockets.
#[cgroup_skb(ingress)]
pub fn isthmus_ingress(ctx: SkBuffContext) -> i32 {
    guard::guard(&ctx, &guard::INGRESS)
}

/// Pods cgroup, packets that its sockets send.
#[cgroup_skb(egress)]
pub fn isthmus_egress(ctx: SkBuffContext) -> i32 {
    guard::guard(&ctx, &guard::EGRESS)
}

/// Devices of an enrolled pod but `lo`, packets that arrive.
#[classifier]
pub fn isthmus_dev_in(ctx: TcContext) -> i32 {
    device::ingress(&ctx)
}

/// Devices of an enrolled pod but `lo`, packets that leave.
#[classifier]
pub fn isthmus_dev_out(ctx: TcContext) -> i32 {
    device::egress(&ctx)
}

/// Some helpers are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: no panic can be reached in a program that the verifier accepts.
    unsafe { core::hint::unreachable_unchecked() }
}
