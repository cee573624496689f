//! cgroup/connect4 and connect6: sends a pod's TCP to the agent's listener on
//! the pod's own address, and keeps where it wanted to go in the socket's
//! storage. The kernel runs them for `connect()`, for TCP Fast Open's
//! `sendmsg()`, and for the first subflow of an MPTCP socket.

use crate::level;
use crate::maps::{AGENT_SOCKETS, ORIGINAL, PODS, storage_ptr};
use crate::report::{self, Ends};
use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_netns_cookie, bpf_set_retval,
    bpf_sk_storage_delete, bpf_sk_storage_get,
};
use aya_ebpf::programs::SockAddrContext;
use mesh_common::connect::{Verdict, decide, is_captured, stays_inside};
use mesh_common::counters::Counter;
use mesh_common::ip::Ip;
use mesh_common::maps::{Destination, Pod};

/// The kernel's answer of a sock_addr program: go on, with what it has written.
const ALLOW: i32 = 1;
/// Refuse, with EPERM unless another error was set.
const REFUSE: i32 = 0;
/// Network is unreachable, on every architecture that Linux runs on but MIPS,
/// Alpha, PA-RISC and SPARC.
const ENETUNREACH: i32 = 101;

/// An IPv4 socket.
#[inline(always)]
pub fn connect4(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: `addr` is the program's context; the verifier checks each access.
    let (ip, port) = unsafe { (Ip::from_v4_word((*addr).user_ip4), port_of(addr)) };
    match capture(addr, ip, port) {
        Outcome::Untouched => ALLOW,
        Outcome::Refused => REFUSE,
        Outcome::Redirect(ip, port) => {
            let [.., word] = ip.words();
            // SAFETY: as above; connect4 may write address and port.
            unsafe {
                (*addr).user_ip4 = word;
                (*addr).user_port = u32::from(port.to_be());
            }
            ALLOW
        }
    }
}

/// An IPv6 socket; the destination may be v4-mapped, and so is the pod's own
/// address then.
#[inline(always)]
pub fn connect6(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: as in `connect4`.
    let (ip, port) = unsafe { (user_ip6(addr), port_of(addr)) };
    match capture(addr, ip, port) {
        Outcome::Untouched => ALLOW,
        Outcome::Refused => REFUSE,
        Outcome::Redirect(ip, port) => {
            // SAFETY: as in `connect4`.
            unsafe {
                write_user_ip6(addr, ip);
                (*addr).user_port = u32::from(port.to_be());
            }
            ALLOW
        }
    }
}

enum Outcome {
    Untouched,
    Refused,
    Redirect(Ip, u16),
}

#[inline(always)]
fn capture(addr: *mut bpf_sock_addr, ip: Ip, port: u16) -> Outcome {
    // SAFETY: `addr` is the program's context, as in `connect4`.
    let (protocol, sk) = unsafe { ((*addr).protocol, (*addr).__bindgen_anon_1.sk) };
    if !is_captured(protocol) {
        return Outcome::Untouched;
    }
    // SAFETY: the helper takes the program's context.
    let netns_cookie = unsafe { bpf_get_netns_cookie(addr.cast()) };
    // SAFETY: the element stays allocated while the program runs. The kernel may
    // recycle it for another pod within that microsecond; what would then be
    // redirected to another pod's address is a SYN that the guard drops.
    let Some(pod) = (unsafe { PODS.get(netns_cookie) }) else {
        if stays_inside(&ip) || !is_of_pod_elsewhere(addr, netns_cookie, &ip, port) {
            return Outcome::Untouched;
        }
        return Outcome::Refused;
    };
    match decide(pod, caller(pod), &ip) {
        Verdict::Untouched => {
            // The socket may have been redirected before, in a connect() that
            // failed; what it wanted then is not where it goes now.
            // SAFETY: `sk` is the context's socket.
            unsafe { bpf_sk_storage_delete(storage_ptr(&ORIGINAL), sk.cast()) };
            Outcome::Untouched
        }
        Verdict::Redirect { ip: own, port: to } => {
            let wanted = Destination {
                cgroup_id: pod.cgroup_id,
                ip,
                port,
                reserved: [0; 2],
                sequence: 0,
            };
            if !remember(sk, wanted) {
                report::count(Counter::RefusedNoMemory);
                return Outcome::Refused;
            }
            report::count(Counter::Redirected);
            Outcome::Redirect(own, to)
        }
        // The agent connects from the pods' namespaces, and in a cluster it is in a
        // pod's cgroup itself.
        // SAFETY: `sk` is the context's socket.
        Verdict::ForeignCgroup if unsafe { AGENT_SOCKETS.contains(sk) } => Outcome::Untouched,
        Verdict::ForeignCgroup => {
            let counter = Counter::RefusedForeignCgroup;
            refused(counter, netns_cookie, pod.cgroup_id, &ip, port);
            Outcome::Refused
        }
        Verdict::NoAddress => {
            let counter = Counter::RefusedNoAddress;
            refused(counter, netns_cookie, pod.cgroup_id, &ip, port);
            // SAFETY: the helper takes a number.
            unsafe { bpf_set_retval(-ENETUNREACH) };
            Outcome::Refused
        }
    }
}

/// Whether the caller is in an enrolled pod's cgroup (a container in the pod with a network of
/// its own) though the namespace is no enrolled pod's, and is not the agent: its connection
/// is refused at once and reported. The agent has no listener there, and its SYN would be
/// dropped by the guard, so that it would wait.
#[inline(always)]
fn is_of_pod_elsewhere(addr: *mut bpf_sock_addr, netns_cookie: u64, ip: &Ip, port: u16) -> bool {
    // SAFETY: the helper takes a number.
    let ancestor = |level: u32| unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
    let Some((cgroup_id, pod)) = level::enrolled(ancestor) else {
        return false;
    };
    if pod.netns_cookie == netns_cookie {
        return false;
    }
    // SAFETY: `addr` is the program's context, and its socket is not null.
    if unsafe { AGENT_SOCKETS.contains((*addr).__bindgen_anon_1.sk) } {
        return false;
    }
    let cookie = pod.netns_cookie;
    refused(Counter::RefusedInnerNamespace, cookie, cgroup_id, ip, port);
    true
}

/// The caller's ancestor cgroup at the pod's level, 0 when there is none.
#[inline(always)]
fn caller(pod: &Pod) -> u64 {
    // SAFETY: the helper takes a number.
    let ancestor = |level: u32| unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
    let Some(meta) = level::meta() else {
        return 0;
    };
    match level::pods_level(meta, ancestor) {
        Some(level) => ancestor(level + pod.depth),
        None => 0,
    }
}

#[inline(always)]
fn remember(sk: *mut bpf_sock, mut wanted: Destination) -> bool {
    let flags = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
    let value = (&raw mut wanted).cast();
    // SAFETY: `sk` is the context's socket, and `value` is of the map's type.
    let slot = unsafe { bpf_sk_storage_get(storage_ptr(&ORIGINAL), sk.cast(), value, flags) };
    if slot.is_null() {
        return false;
    }
    // An older value of the socket stays as it is unless it is written.
    // SAFETY: the slot holds a `Destination` and lives as long as the socket.
    unsafe { *slot.cast::<Destination>() = wanted };
    true
}

/// Counts and reports a refused `connect()`. In place: one stack frame of 512 bytes holds all.
#[inline(always)]
fn refused(counter: Counter, netns_cookie: u64, cgroup_id: u64, remote: &Ip, remote_port: u16) {
    let ends = Ends {
        local: None,
        remote,
        local_port: 0,
        remote_port,
    };
    report::tell_in_place(counter as u32, netns_cookie, cgroup_id, &ends);
}

/// The port of a sock_addr context, in host order.
///
/// # Safety
/// `addr` is the context of a sock_addr program.
#[inline(always)]
pub unsafe fn port_of(addr: *const bpf_sock_addr) -> u16 {
    // SAFETY: the caller's promise. The port is in network order in the lower
    // 16 bits.
    u16::from_be(unsafe { (*addr).user_port } as u16)
}

/// The IPv6 address of a sock_addr context. Word by word and volatile: the
/// compiler merges neighbouring accesses into one of 8 bytes, which the
/// verifier refuses here.
///
/// # Safety
/// `addr` is the context of a sock_addr program for IPv6.
#[inline(always)]
pub unsafe fn user_ip6(addr: *const bpf_sock_addr) -> Ip {
    // SAFETY: the caller's promise.
    unsafe {
        Ip::from_words([
            (&raw const (*addr).user_ip6[0]).read_volatile(),
            (&raw const (*addr).user_ip6[1]).read_volatile(),
            (&raw const (*addr).user_ip6[2]).read_volatile(),
            (&raw const (*addr).user_ip6[3]).read_volatile(),
        ])
    }
}

/// Sets the IPv6 address of a sock_addr context, as [`user_ip6`] reads it.
///
/// # Safety
/// `addr` is the context of a sock_addr program for IPv6.
#[inline(always)]
pub unsafe fn write_user_ip6(addr: *mut bpf_sock_addr, ip: Ip) {
    let [a, b, c, d] = ip.words();
    // SAFETY: the caller's promise.
    unsafe {
        (&raw mut (*addr).user_ip6[0]).write_volatile(a);
        (&raw mut (*addr).user_ip6[1]).write_volatile(b);
        (&raw mut (*addr).user_ip6[2]).write_volatile(c);
        (&raw mut (*addr).user_ip6[3]).write_volatile(d);
    }
}
