//! Which helpers of the kernel a program of some type may call, found by
//! loading a program of three instructions that does nothing else.

use std::io;

use super::Feature;
use crate::intercept::sys::{self, AttachType};

/// `bpf_get_netns_cookie`, number 122 of uapi/linux/bpf.h.
const GET_NETNS_COOKIE: u32 = 122;
/// `bpf_get_current_ancestor_cgroup_id`.
const CURRENT_ANCESTOR_CGROUP_ID: u32 = 123;
/// `bpf_skb_ancestor_cgroup_id`.
const SKB_ANCESTOR_CGROUP_ID: u32 = 83;
/// `bpf_set_retval`.
const SET_RETVAL: u32 = 187;

/// Types of programs, as numbered by uapi/linux/bpf.h.
const CGROUP_SKB: u32 = 8;
const SOCK_OPS: u32 = 13;
const CGROUP_SOCK_ADDR: u32 = 18;

struct Probe {
    name: &'static str,
    program: u32,
    attach: AttachType,
    helper: u32,
    needed: bool,
    detail: &'static str,
}

const PROBES: [Probe; 6] = [
    Probe {
        name: "netns cookie in connect",
        program: CGROUP_SOCK_ADDR,
        attach: AttachType::CgroupConnect4,
        helper: GET_NETNS_COOKIE,
        needed: true,
        detail: "names the pod that connects (Linux 5.7)",
    },
    Probe {
        name: "ancestor cgroup in connect",
        program: CGROUP_SOCK_ADDR,
        attach: AttachType::CgroupConnect4,
        helper: CURRENT_ANCESTOR_CGROUP_ID,
        needed: true,
        detail: "refuses a caller that is not of the pod",
    },
    Probe {
        name: "error codes in connect",
        program: CGROUP_SOCK_ADDR,
        attach: AttachType::CgroupConnect4,
        helper: SET_RETVAL,
        needed: true,
        detail: "tells a pod without an address of a family that the network is unreachable",
    },
    Probe {
        name: "netns cookie in sock_ops",
        program: SOCK_OPS,
        attach: AttachType::CgroupSockOps,
        helper: GET_NETNS_COOKIE,
        needed: true,
        detail: "publishes original destinations (Linux 5.15)",
    },
    Probe {
        name: "ancestor cgroup in the guard",
        program: CGROUP_SKB,
        attach: AttachType::CgroupEgress,
        helper: SKB_ANCESTOR_CGROUP_ID,
        needed: true,
        detail: "names the pod that a packet belongs to",
    },
    Probe {
        name: "netns cookie in the guard",
        program: CGROUP_SKB,
        attach: AttachType::CgroupEgress,
        helper: GET_NETNS_COOKIE,
        needed: false,
        detail: "Linux 6.15; the guard goes by the pod's cgroup instead, on every kernel",
    },
];

pub(super) fn probe() -> Vec<Feature> {
    PROBES
        .iter()
        .map(|probe| {
            let result = sys::load_call(probe.program, probe.attach, probe.helper);
            Feature {
                name: probe.name,
                present: result.is_ok(),
                needed: probe.needed,
                detail: detail(probe.detail, result),
                cure: "run a kernel of version 6.1 or later, with the agent's capabilities",
            }
        })
        .collect()
}

fn detail(purpose: &str, result: io::Result<()>) -> String {
    match result {
        Ok(()) => purpose.to_owned(),
        Err(error) => format!("{purpose}; the kernel says: {error}"),
    }
}
