//! `mesh-agent flows` as a table.

use super::human;
use super::table::{self, Kind};
use crate::observe::Flow;

pub(super) fn render(flows: &[Flow]) -> String {
    if flows.is_empty() {
        return "no flow was recorded yet\n".into();
    }
    let columns = [
        ("SOURCE", Kind::Elastic),
        ("DESTINATION", Kind::Elastic),
        ("PORT", Kind::Number),
        ("VERDICT", Kind::Whole),
        ("COUNT", Kind::Number),
        ("SEEN BY", Kind::Whole),
    ];
    let rows: Vec<_> = flows.iter().map(row).collect();
    table::render(&columns, &rows)
}

fn row(flow: &Flow) -> Vec<String> {
    let verdict = match (&flow.reason, flow.allowed) {
        (_, true) => "allowed",
        (Some(reason), false) => reason,
        (None, false) => "denied",
    };
    let reporter = match flow.reporter {
        crate::observe::Reporter::Source => "source",
        crate::observe::Reporter::Destination => "destination",
    };
    vec![
        source(flow.source_identity.as_deref(), flow.source_ip),
        flow.destination.clone(),
        flow.port.to_string(),
        verdict.into(),
        flow.count.to_string(),
        reporter.into(),
    ]
}

/// Who connects, by identity or else by address.
pub(super) fn source(identity: Option<&str>, ip: Option<std::net::IpAddr>) -> String {
    match (identity, ip) {
        (Some(identity), _) => human::identity(identity).to_owned(),
        (None, Some(ip)) => format!("{ip} (no identity)"),
        (None, None) => "-".to_owned(),
    }
}
