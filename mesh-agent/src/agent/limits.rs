//! The limit of open files: read, raised as far as it may be, and reported; and the budgets
//! that follow from it.

use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::budget::{BudgetLimits, BudgetOptions, Machine, NodeBudget};
use crate::intercept;

/// Raises the soft limit of open files to the hard one, which needs no capability.
pub(super) fn raise_open_files() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_err() {
        tracing::warn!(soft, hard, "the limit of open files cannot be raised");
    }
}

/// The budget of the node's pods, within the limits of this process.
pub(super) fn budget(options: &BudgetOptions) -> Arc<NodeBudget> {
    let own = intercept::own_cgroup().ok();
    let limits = BudgetLimits::new(options, &Machine::read(own.as_deref()));
    tracing::info!(
        node_descriptors = limits.node_descriptors,
        pod_descriptors = limits.pod_descriptors,
        node_buffered_bytes = limits.node_buffered_bytes,
        pod_buffered_bytes = limits.pod_buffered_bytes,
        "budgets in force"
    );
    NodeBudget::new(&limits)
}

/// Open descriptors of this process, and how many it may have.
pub(super) fn open_files() -> (u64, u64) {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    // One entry is the directory's own descriptor.
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    (open.saturating_sub(1), limit)
}
