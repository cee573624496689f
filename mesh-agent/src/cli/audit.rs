//! `mesh-agent audit`: has the agent compare what is meant with what the kernel has, now.

use std::process::ExitCode;

use clap::Args;

use super::table::{self, Kind};
use super::{CliError, Query, human};
use crate::admin::api::{AuditProblem, AuditRepair, AuditReport, PodAudit};

/// Options of `mesh-agent audit`.
#[derive(Clone, Debug, Args)]
pub struct AuditArgs {
    /// Prove it with a connection from inside every pod that is covered.
    #[arg(long)]
    pub probe: bool,
    /// Whom to ask, and how to answer.
    #[command(flatten)]
    pub query: Query,
}

/// Asks, prints, and says by the exit code whether all is well: 1 when a pod is uncovered or
/// unknown, or a probe was not captured.
pub(super) async fn run(args: &AuditArgs) -> Result<ExitCode, CliError> {
    let path = if args.probe { "/audit/probe" } else { "/audit" };
    let report = args.query.ask(path, render).await?;
    Ok(match report.is_good() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

pub(super) fn render(report: &AuditReport) -> String {
    let mut out = String::new();
    if report.pods.is_empty() {
        out.push_str("no pod of this node should be in the mesh\n");
    } else {
        let columns = [
            ("POD", Kind::Elastic),
            ("STATE", Kind::Whole),
            ("FOR", Kind::Number),
            ("MODE", Kind::Whole),
            ("PROBE", Kind::Whole),
        ];
        let rows: Vec<_> = report.pods.iter().map(row).collect();
        out.push_str(&table::render(&columns, &rows));
    }
    for problem in &report.node_problems {
        out.push_str(&problem_line("all pods", problem));
    }
    let own = |problem: &&AuditProblem| !report.node_problems.contains(problem);
    for pod in &report.pods {
        let name = name(pod);
        for problem in pod.problems.iter().filter(own) {
            out.push_str(&problem_line(&name, problem));
        }
        for probe in &pod.probes {
            if let Some(detail) = &probe.detail {
                out.push_str(&format!(
                    "{name}: not captured on the way to {}: {detail}\n",
                    probe.to
                ));
            }
        }
        for connection in &pod.older_connections {
            out.push_str(&format!(
                "{name}: older than its enrolment, and plaintext: {connection}\n"
            ));
        }
    }
    for repair in &report.repairs {
        out.push_str(&repair_line(repair));
    }
    out
}

fn row(pod: &PodAudit) -> Vec<String> {
    let captured = pod.probes.iter().all(|probe| probe.captured);
    let probe = match (pod.probes.is_empty(), captured) {
        (true, _) => "-",
        (false, true) => "captured",
        (false, false) => "NOT CAPTURED",
    };
    let state = pod.state.as_str();
    vec![
        name(pod),
        state.to_owned(),
        human::seconds(pod.since_s),
        pod.mode.clone(),
        probe.to_owned(),
    ]
}

fn name(pod: &PodAudit) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

fn problem_line(of: &str, problem: &AuditProblem) -> String {
    let since = human::seconds(problem.since_s);
    format!("{of}: {}, for {since}\n", problem.detail)
}

fn repair_line(repair: &AuditRepair) -> String {
    let of = repair.pod.as_deref().unwrap_or("all pods");
    let ago = human::seconds(repair.ago_s);
    let for_at_most = repair.missing_at_most_ms.map_or_else(String::new, |ms| {
        format!(", which was so for {ms} ms at most")
    });
    format!("{of}: repaired {ago} ago: {}{for_at_most}\n", repair.detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::{AuditState, ProbeResult};

    #[test]
    fn what_is_missing_is_said_once_and_makes_the_audit_fail() {
        let lost = AuditProblem {
            what: "program".into(),
            detail: "the kernel program isthmus_conn4 is not attached to its cgroup".into(),
            since_s: 4,
        };
        let pod = |name: &str| PodAudit {
            namespace: "shop".into(),
            name: name.into(),
            state: AuditState::Uncovered,
            mode: "STRICT".into(),
            problems: vec![lost.clone()],
            ..PodAudit::default()
        };
        let report = AuditReport {
            node_problems: vec![lost.clone()],
            pods: vec![pod("web"), pod("db")],
            ..AuditReport::default()
        };
        assert!(!report.is_good());
        let text = render(&report);
        assert_eq!(text.matches("isthmus_conn4").count(), 1, "{text}");
        assert!(text.contains("shop/web  uncovered"), "{text}");
    }

    #[test]
    fn a_probe_that_was_not_captured_makes_the_audit_fail() {
        let probe = |captured| ProbeResult {
            to: "192.0.2.9:80".into(),
            captured,
            detail: (!captured).then(|| "timed out".into()),
        };
        let report = |probes| AuditReport {
            pods: vec![PodAudit {
                state: AuditState::Covered,
                probes,
                ..PodAudit::default()
            }],
            ..AuditReport::default()
        };
        assert!(report(vec![probe(true)]).is_good());
        let failed = report(vec![probe(true), probe(false)]);
        assert!(!failed.is_good());
        let text = render(&failed);
        assert!(
            text.contains("NOT CAPTURED") && text.contains("timed out"),
            "{text}"
        );
    }
}
