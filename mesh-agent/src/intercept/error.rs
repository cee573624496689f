//! What can go wrong between the agent and the kernel, with the cure.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use super::NetnsCookie;

/// Why the kernel's side of the mesh could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum InterceptError {
    /// The agent was built without the kernel programs.
    #[error("this agent was built without its kernel programs; build it with `cargo xtask build`")]
    NoObject,
    /// Not a directory of a bpffs mount.
    #[error(
        "{} is not on a bpf file system; mount one (`mount -t bpf bpf /sys/fs/bpf`, and \
         on the node itself where the agent runs in a pod) or choose another --pin-dir",
        .0.display()
    )]
    NotBpffs(PathBuf),
    /// Not a directory of the cgroup v2 hierarchy.
    #[error(
        "{} is not a cgroup v2 directory; on hosts with both hierarchies it lies below \
         /sys/fs/cgroup/unified", .0.display()
    )]
    NotCgroup2(PathBuf),
    /// The agent's own cgroup cannot be told.
    #[error("the agent's own cgroup v2 directory is not to be found in {tried}; {cure}")]
    OwnCgroup {
        /// Where it was looked for.
        tried: &'static str,
        /// What to do.
        cure: &'static str,
    },
    /// The pod's cgroup is not below the pods cgroup, or too deep below it.
    #[error(
        "{} is not a cgroup 1 to {max} levels below {}; the kernel programs see only what is there",
        .cgroup.display(), .pods_cgroup.display()
    )]
    OutsidePodsCgroup {
        /// The pod's cgroup.
        cgroup: PathBuf,
        /// The pods cgroup.
        pods_cgroup: PathBuf,
        /// How deep it may be.
        max: u32,
    },
    /// As many pods are enrolled as the maps hold.
    #[error(
        "as many pods are enrolled on this node as an agent can: {}",
        mesh_common::maps::MAX_PODS
    )]
    TooManyPods,
    /// Pins of an agent whose maps have another shape.
    #[error(
        "{} holds kernel state of version {found}, and this agent speaks version {expected}: drain \
         the node and remove the old state (`mesh-agent clean`), or start the agent that made it",
        .pin_dir.display()
    )]
    AbiMismatch {
        /// Where the pins are.
        pin_dir: PathBuf,
        /// Their version.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// Pins that are attached to another cgroup.
    #[error(
        "{} holds programs attached to another cgroup than {}: use the --pods-cgroup that they \
         were made with, another --pin-dir, or remove them first (`mesh-agent clean`)",
        .pin_dir.display(), .pods_cgroup.display()
    )]
    OtherPodsCgroup {
        /// Where the pins are.
        pin_dir: PathBuf,
        /// The cgroup that was asked for.
        pods_cgroup: PathBuf,
    },
    /// Another enrolled pod has this address.
    #[error("{address} is the address of the enrolled pod with netns cookie {taken_by} already")]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// Who has it.
        taken_by: NetnsCookie,
    },
    /// Another enrolled pod has this cgroup.
    #[error("{} is the cgroup of the enrolled pod with netns cookie {taken_by} already", .cgroup.display())]
    CgroupTaken {
        /// The cgroup.
        cgroup: PathBuf,
        /// Who has it.
        taken_by: NetnsCookie,
    },
    /// Not exactly one or no address of each family.
    #[error("a pod is enrolled with one IPv4 address, one IPv6 address, or one of each")]
    Addresses,
    /// No such pod.
    #[error("no pod with netns cookie {0} is enrolled")]
    NotEnrolled(NetnsCookie),
    /// The loader did not take the object, or the verifier refused a program.
    #[error("the kernel programs could not be loaded: {}", with_cause(.0))]
    Load(#[from] aya::EbpfError),
    /// The object lacks a program or map of this name, or it is of another type.
    #[error("the kernel object has no usable `{0}`; it is not of this agent's version")]
    Object(&'static str),
    /// The verifier refused a program.
    #[error("the kernel refused the program {name}: {source}")]
    Program {
        /// Which.
        name: &'static str,
        /// Why, with the verifier's log.
        source: Box<aya::programs::ProgramError>,
    },
    /// A map is not what it should be.
    #[error("the map {name} cannot be used: {source}")]
    Map {
        /// Which.
        name: &'static str,
        /// Why.
        source: Box<aya::maps::MapError>,
    },
    /// Any other refusal of the operating system.
    #[error("{tried}: {source}")]
    System {
        /// What was tried, and on what.
        tried: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The loader's error and what is at the bottom of it: its own text leaves out the kernel's answer.
fn with_cause(error: &aya::EbpfError) -> String {
    let (text, mut cause) = (error.to_string(), std::error::Error::source(error));
    while let Some(deeper) = cause.and_then(std::error::Error::source) {
        cause = Some(deeper);
    }
    let cause = cause.map(ToString::to_string);
    match cause.filter(|cause| !text.contains(cause)) {
        Some(cause) => format!("{text}: {cause}"),
        None => text,
    }
}

/// Says what was tried when a system call fails.
pub(super) trait Tried<T> {
    /// Wraps the error; `what` completes "… failed".
    fn tried(self, what: impl FnOnce() -> String) -> Result<T, InterceptError>;
}

impl<T> Tried<T> for io::Result<T> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T, InterceptError> {
        self.map_err(|source| InterceptError::System {
            tried: what(),
            source,
        })
    }
}
