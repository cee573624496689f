//! The limits of the budgets: as given by options, or derived from the agent's limit of open
//! files and from its memory.

use std::fs;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};

/// Descriptors that pods do not get, at least and at most: kube watches, the authority, the
/// admin socket, the access to pods' namespaces, listeners of pods to enrol.
const CONTROL_PLANE: (u64, u64) = (256, 4096);

/// Buffered bytes of the node by default, at least and at most.
const NODE_BYTES: (u64, u64) = (32 << 20, 1 << 30);

/// Part of a control group's memory limit that may be buffered. The kernel's socket buffers,
/// the configuration and the connections themselves are in the same limit.
const PART_OF_LIMIT: u64 = 4;

/// Part of the machine's memory that may be buffered where the agent has no limit of its own.
const PART_OF_MACHINE: u64 = 16;

/// What the options of `mesh-agent run` say of the budgets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetOptions {
    /// Descriptors of one pod.
    pub pod_descriptors: Option<u64>,
    /// Buffered bytes of one pod.
    pub pod_buffered_bytes: Option<u64>,
    /// Buffered bytes of the node's pods together.
    pub node_buffered_bytes: Option<u64>,
}

/// Limits of the process and the machine, from which defaults are derived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Open files that the process may have.
    pub open_files: u64,
    /// The lowest memory limit of the process's control groups, in bytes.
    pub memory_limit: Option<u64>,
    /// Memory of the machine, in bytes.
    pub memory: u64,
}

/// The limits in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetLimits {
    /// Descriptors of all pods together.
    pub node_descriptors: u64,
    /// Descriptors of one pod.
    pub pod_descriptors: u64,
    /// Buffered bytes of all pods together.
    pub node_buffered_bytes: u64,
    /// Buffered bytes of one pod.
    pub pod_buffered_bytes: u64,
}

impl BudgetLimits {
    /// The limits that `options` give, and half of the node's for one pod where they do not.
    pub fn new(options: &BudgetOptions, machine: &Machine) -> Self {
        let kept = (machine.open_files / 8).clamp(CONTROL_PLANE.0, CONTROL_PLANE.1);
        let kept = kept.min(machine.open_files / 2);
        let node_descriptors = machine.open_files - kept;
        let derived = machine.memory_limit.map_or_else(
            || machine.memory / PART_OF_MACHINE,
            |limit| limit.min(machine.memory) / PART_OF_LIMIT,
        );
        let derived = derived.clamp(NODE_BYTES.0, NODE_BYTES.1);
        let node_buffered_bytes = options.node_buffered_bytes.unwrap_or(derived);
        Self {
            node_descriptors,
            pod_descriptors: options.pod_descriptors.unwrap_or(node_descriptors / 2),
            node_buffered_bytes,
            pod_buffered_bytes: options
                .pod_buffered_bytes
                .unwrap_or(node_buffered_bytes / 2),
        }
    }
}

impl Machine {
    /// The limits of this process, in the control group `own`, on this machine. The soft limit
    /// of open files should have been raised before.
    pub fn read(own: Option<&Path>) -> Self {
        Self {
            open_files: getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft),
            memory_limit: own.and_then(lowest_limit),
            memory: machine_memory(),
        }
    }
}

/// The lowest `memory.max` of a control group (v2) and those above it.
fn lowest_limit(group: &Path) -> Option<u64> {
    group
        .ancestors()
        .filter_map(|group| fs::read_to_string(group.join("memory.max")).ok())
        .filter_map(|limit| limit.trim().parse().ok())
        .min()
}

/// `MemTotal`, in bytes; 1 GiB where it cannot be read.
fn machine_memory() -> u64 {
    let read = || {
        let info = fs::read_to_string("/proc/meminfo").ok()?;
        let total = info
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kib: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib << 10)
    };
    read().unwrap_or(1 << 30)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(open_files: u64) -> Machine {
        Machine {
            open_files,
            memory_limit: None,
            memory: 8 << 30,
        }
    }

    #[test]
    fn limits_keep_descriptors_for_the_control_plane() {
        let options = BudgetOptions::default();
        for (open_files, node) in [
            (20_000, 17_500),
            (1 << 20, (1 << 20) - 4096),
            (1024, 768),
            (256, 128),
        ] {
            let limits = BudgetLimits::new(&options, &machine(open_files));
            assert_eq!(limits.node_descriptors, node, "of {open_files}");
            assert_eq!(limits.pod_descriptors, node / 2);
        }
    }

    #[test]
    fn limits_derive_bytes_from_the_control_group_or_the_machine() {
        let limits = |memory_limit, memory| {
            let machine = Machine {
                memory_limit,
                memory,
                ..machine(1024)
            };
            BudgetLimits::new(&BudgetOptions::default(), &machine).node_buffered_bytes
        };
        assert_eq!(limits(None, 8 << 30), 512 << 20);
        assert_eq!(limits(None, 256 << 30), 1 << 30);
        assert_eq!(limits(Some(512 << 20), 8 << 30), 128 << 20);
        assert_eq!(limits(Some(64 << 20), 8 << 30), 32 << 20);
    }

    #[test]
    fn limits_take_options_as_given() {
        let options = BudgetOptions {
            pod_descriptors: Some(7),
            pod_buffered_bytes: Some(8),
            node_buffered_bytes: Some(100),
        };
        let limits = BudgetLimits::new(&options, &machine(1024));
        assert_eq!(limits.pod_descriptors, 7);
        assert_eq!(limits.pod_buffered_bytes, 8);
        assert_eq!(limits.node_buffered_bytes, 100);
    }

    #[test]
    fn lowest_limit_is_that_of_any_ancestor() {
        let mount = tempfile::tempdir().unwrap();
        let group = mount.path().join("pods/agent");
        fs::create_dir_all(&group).unwrap();
        assert_eq!(lowest_limit(&group), None);
        fs::write(group.join("memory.max"), "max\n").unwrap();
        fs::write(mount.path().join("pods/memory.max"), "4096\n").unwrap();
        assert_eq!(lowest_limit(&group), Some(4096));
    }
}
