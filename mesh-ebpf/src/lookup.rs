//! sk_lookup in an enrolled pod's namespace: TCP from outside goes to the
//! agent's listener, whatever port it asks for, and the kubelet's probes to the
//! application. Runs where no established connection takes the packet.

use crate::maps::LISTENERS;
use crate::probe;
use crate::report;
use aya_ebpf::bindings::bpf_sk_lookup;
use aya_ebpf::helpers::generated::{bpf_map_lookup_elem, bpf_sk_assign, bpf_sk_release};
use aya_ebpf::programs::SkLookupContext;
use mesh_common::connect::IPPROTO_TCP;
use mesh_common::counters::Counter;
use mesh_common::ip::{Ip, is_local};
use mesh_common::maps::Tuple;

/// Go on as if the program were not there, or with the socket it has chosen.
const PASS: u32 = 1;
/// As if nobody listened: the sender gets a reset.
const DROP: u32 = 0;
const AF_INET: u32 = 2;

/// Hands a packet from outside to the agent's listener of the address it is
/// for. With no listener there (the agent is gone, or the address is not the
/// pod's known one) it is dropped, never passed.
#[inline(always)]
pub fn inbound(ctx: &SkLookupContext) -> u32 {
    let lookup = ctx.lookup;
    // SAFETY: `lookup` is the program's context; the verifier checks it.
    if unsafe { (*lookup).protocol } != IPPROTO_TCP {
        return PASS;
    }
    let (remote, local) = ends(lookup);
    if is_local(&remote, &local) {
        return PASS;
    }
    if probe::opens_now(tuple(lookup, remote, local)) {
        report::count(Counter::Probe);
        return PASS;
    }
    let map = LISTENERS.as_ptr();
    // SAFETY: the key is an `Ip`, as the map's type has it.
    let sk = unsafe { bpf_map_lookup_elem(map, (&raw const local).cast()) };
    if sk.is_null() {
        report::count(Counter::InboundNoListener);
        return DROP;
    }
    // SAFETY: `sk` is a socket that the lookup has taken a reference to, which
    // is given back here.
    let assigned = unsafe {
        let assigned = bpf_sk_assign(lookup.cast(), sk, 0);
        bpf_sk_release(sk);
        assigned
    };
    if assigned != 0 {
        report::count(Counter::InboundNoListener);
        return DROP;
    }
    report::count(Counter::Inbound);
    PASS
}

/// The connection, if `remote` is the kubelet.
#[inline(always)]
fn tuple(lookup: *const bpf_sk_lookup, remote: Ip, local: Ip) -> Tuple {
    // SAFETY: `lookup` is the program's context. The remote port is in network
    // order, in the lower half of the word on every machine; the local one in
    // host order.
    let (kubelet_port, pod_port) = unsafe {
        let remote_port = (&raw const (*lookup).remote_port).read_volatile();
        (u16::from_be(remote_port), (*lookup).local_port as u16)
    };
    Tuple {
        kubelet: remote,
        pod: local,
        kubelet_port,
        pod_port,
    }
}

#[inline(always)]
fn ends(lookup: *const bpf_sk_lookup) -> (Ip, Ip) {
    // SAFETY: `lookup` is the program's context. Word by word and volatile,
    // since the verifier refuses merged accesses.
    unsafe {
        if (*lookup).family == AF_INET {
            return (
                Ip::from_v4_word((*lookup).remote_ip4),
                Ip::from_v4_word((*lookup).local_ip4),
            );
        }
        let remote = [
            (&raw const (*lookup).remote_ip6[0]).read_volatile(),
            (&raw const (*lookup).remote_ip6[1]).read_volatile(),
            (&raw const (*lookup).remote_ip6[2]).read_volatile(),
            (&raw const (*lookup).remote_ip6[3]).read_volatile(),
        ];
        let local = [
            (&raw const (*lookup).local_ip6[0]).read_volatile(),
            (&raw const (*lookup).local_ip6[1]).read_volatile(),
            (&raw const (*lookup).local_ip6[2]).read_volatile(),
            (&raw const (*lookup).local_ip6[3]).read_volatile(),
        ];
        (Ip::from_words(remote), Ip::from_words(local))
    }
}
