//! `mesh-agent workloads` as a table, with what is wrong under it.

use super::human;
use super::table::{self, Kind};
use crate::admin::api::WorkloadStatus;

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
        for problem in &workload.problems {
            out.push_str(&format!(
                "\n{}/{}: {problem}",
                workload.namespace, workload.name
            ));
        }
    }
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
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
