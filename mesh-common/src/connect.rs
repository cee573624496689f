//! Whether a pod's `connect()` is handed to the agent. Asked by the connect4
//! and connect6 programs for TCP and MPTCP sockets of enrolled namespaces.

use crate::ip::Ip;
use crate::maps::{POD_HAS_V4, POD_HAS_V6, Pod};

/// IANA protocol number of TCP.
pub const IPPROTO_TCP: u32 = 6;
/// Linux's number for an MPTCP socket. The hook sees it for the socket itself
/// on some kernels and TCP for its first subflow on others; take both.
pub const IPPROTO_MPTCP: u32 = 262;

/// What becomes of a `connect()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not the mesh's: it stays within the pod, or the kernel refuses it.
    Untouched,
    /// Connect to the agent instead, on the pod's own address.
    Redirect {
        /// The pod's own address of the destination's family.
        ip: Ip,
        /// The agent's port, host order.
        port: u16,
    },
    /// The caller is in another cgroup than the pod whose namespace this is:
    /// it would borrow that pod's identity. Fails with EPERM.
    ForeignCgroup,
    /// The pod has no address of that family, so there is nowhere to redirect
    /// to. Letting it pass would let it leave unguarded (a sidecar-less IPv4
    /// pod may still have an IPv6 route), so it fails with ENETUNREACH, which
    /// makes clients try the other family.
    NoAddress,
}

/// Whether connections on this protocol are the mesh's.
#[inline(always)]
pub fn is_captured(protocol: u32) -> bool {
    protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP
}

/// Decides on a connection of the pod `pod` to `destination` by a process whose
/// ancestor cgroup at the pod's level is `cgroup_id` (0 when there is none).
#[inline(always)]
pub fn decide(pod: &Pod, cgroup_id: u64, destination: &Ip) -> Verdict {
    if stays_untouched(pod, destination) {
        return Verdict::Untouched;
    }
    if cgroup_id != pod.cgroup_id {
        return Verdict::ForeignCgroup;
    }
    let (needed, own) = if destination.is_v4() {
        (POD_HAS_V4, pod.ipv4)
    } else {
        (POD_HAS_V6, pod.ipv6)
    };
    if pod.flags & needed == 0 {
        return Verdict::NoAddress;
    }
    Verdict::Redirect {
        ip: own,
        port: pod.port,
    }
}

/// Loopback, the wildcard (which `connect()` takes for the host itself) and the
/// pod's own addresses stay within the pod. TCP to a multicast or broadcast
/// address is refused by the kernel. An IPv6 link-local address is only known
/// together with an interface, which the hook does not see and the agent could
/// not repeat: to the pod itself it works, and beyond it the guard drops it.
#[inline(always)]
fn stays_untouched(pod: &Pod, destination: &Ip) -> bool {
    stays_inside(destination)
        || (pod.flags & POD_HAS_V4 != 0 && destination.same(&pod.ipv4))
        || (pod.flags & POD_HAS_V6 != 0 && destination.same(&pod.ipv6))
}

/// Whether `destination` is within the caller's own network namespace whatever its addresses
/// are, or is nothing that the agent could connect to; see [`decide`].
#[inline(always)]
pub fn stays_inside(destination: &Ip) -> bool {
    destination.is_loopback()
        || destination.is_unspecified()
        || destination.is_multicast()
        || destination.is_v6_link_local()
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::net::IpAddr;

    fn ip(text: &str) -> Ip {
        let bytes = match text.parse().unwrap() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        Ip { bytes }
    }

    fn pod(flags: u32) -> Pod {
        Pod {
            cgroup_id: 77,
            depth: 1,
            flags,
            ipv4: ip("10.0.0.1"),
            ipv6: ip("fd00::1"),
            port: 40_000,
            reserved: [0; 6],
        }
    }

    #[test]
    fn remote_destinations_go_to_the_own_address_of_their_family() {
        let pod = pod(POD_HAS_V4 | POD_HAS_V6);
        for (destination, own) in [
            ("10.0.0.2", "10.0.0.1"),
            ("169.254.169.254", "10.0.0.1"),
            ("::ffff:10.0.0.2", "10.0.0.1"),
            ("fd00::2", "fd00::1"),
        ] {
            let expected = Verdict::Redirect {
                ip: ip(own),
                port: 40_000,
            };
            assert_eq!(decide(&pod, 77, &ip(destination)), expected);
        }
    }

    #[test]
    fn what_stays_in_the_pod_is_untouched_for_everybody() {
        let pod = pod(POD_HAS_V4 | POD_HAS_V6);
        for destination in [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "0.0.0.0",
            "::",
            "10.0.0.1",
            "::ffff:10.0.0.1",
            "fd00::1",
            "fe80::1",
            "224.0.0.1",
            "ff02::1",
        ] {
            for cgroup_id in [77, 1] {
                let verdict = decide(&pod, cgroup_id, &ip(destination));
                assert_eq!(verdict, Verdict::Untouched, "{destination}");
            }
        }
    }

    #[test]
    fn a_caller_in_another_cgroup_is_refused() {
        let pod = pod(POD_HAS_V4);
        for cgroup_id in [0, 78] {
            let verdict = decide(&pod, cgroup_id, &ip("10.0.0.2"));
            assert_eq!(verdict, Verdict::ForeignCgroup);
        }
    }

    #[test]
    fn a_family_without_own_address_is_refused_not_passed() {
        let v4_only = decide(&pod(POD_HAS_V4), 77, &ip("fd00::2"));
        let v6_only = decide(&pod(POD_HAS_V6), 77, &ip("10.0.0.2"));
        assert_eq!((v4_only, v6_only), (Verdict::NoAddress, Verdict::NoAddress));
    }

    #[test]
    fn an_address_that_the_flags_do_not_claim_is_not_own() {
        let mut pod = pod(POD_HAS_V4);
        pod.ipv6 = ip("fd00::1");
        assert_eq!(decide(&pod, 77, &ip("fd00::1")), Verdict::NoAddress);
    }

    #[test]
    fn tcp_and_mptcp_are_captured_and_udp_is_not() {
        assert!(is_captured(6) && is_captured(262));
        assert!(!is_captured(17) && !is_captured(132));
    }
}
