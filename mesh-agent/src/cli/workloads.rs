//! `mesh-agent workloads` as a table, with what is wrong under it.

use super::human;
use super::table::{self, Kind};
use crate::admin::api::{BudgetStatus, WorkloadStatus};

pub(super) fn render(workloads: &[WorkloadStatus]) -> String {
    if workloads.is_empty() {
        return "the configuration names no workload\n".into();
    }
    let columns = [
        ("WORKLOAD", Kind::Whole),
        ("NODE", Kind::Elastic),
        ("STATE", Kind::Whole),
        ("MODE", Kind::Whole),
        ("ADDRESSES", Kind::List),
        ("IDENTITY", Kind::Whole),
        ("CERT", Kind::Number),
    ];
    let rows: Vec<_> = workloads.iter().map(row).collect();
    let mut out = table::render(&columns, &rows);
    for workload in workloads {
        let near_limit = workload.budget.as_ref().and_then(near_limit);
        for note in workload.problems.iter().chain(&near_limit) {
            out.push_str(&format!(
                "\n{}/{}: {note}",
                workload.namespace, workload.name
            ));
        }
    }
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

/// A sentence for a pod that holds more than half of what it may.
fn near_limit(budget: &BudgetStatus) -> Option<String> {
    let near = budget.descriptors > budget.max_descriptors / 2
        || budget.buffered_bytes > budget.max_buffered_bytes / 2;
    near.then(|| {
        format!(
            "holds {} of {} descriptors (--pod-descriptors), {} of {} bytes buffered \
             (--pod-buffered-bytes)",
            budget.descriptors,
            budget.max_descriptors,
            budget.buffered_bytes,
            budget.max_buffered_bytes
        )
    })
}

fn row(workload: &WorkloadStatus) -> Vec<String> {
    vec![
        format!("{}/{}", workload.namespace, workload.name),
        workload.node.clone(),
        workload.state.as_str().into(),
        workload.mode.clone().unwrap_or_else(|| "-".into()),
        workload.addresses.join(","),
        human::identity(&workload.identity).into(),
        workload
            .certificate_expires_in_s
            .map_or_else(|| "-".into(), human::until),
    ]
}
