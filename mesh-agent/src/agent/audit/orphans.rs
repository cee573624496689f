//! Pods whose object is gone, against the kernel: they must stay closed.

use super::inspect::Finding;
use super::{Auditor, Leave};
use crate::admin::api::{AuditProblem, AuditState, PodAudit};
use crate::agent::fleet::{ORPHANED, Orphan};
use crate::intercept::ClosedPod;

impl Auditor {
    /// Examines the orphans, and closes again what was opened.
    pub(super) fn orphans(&self) {
        let mut repaired = Vec::new();
        let orphans = self.fleet.orphans();
        let pods = orphans.iter();
        let pods = pods.map(|orphan| self.orphan(orphan, &mut repaired));
        let pods = pods.collect();
        self.ledger().record_orphans(pods, &repaired);
    }

    fn orphan(&self, orphan: &Orphan, repaired: &mut Vec<Finding>) -> PodAudit {
        let (state, mut findings) = match &orphan.closed {
            Some(closed) => self.closed(closed, &orphan.title(), repaired),
            None => (AuditState::Orphaned, Vec::new()),
        };
        findings.insert(0, Finding::new("orphaned", ORPHANED.to_owned()));
        let since_s = orphan.since.elapsed().as_secs();
        let problem = |Finding { what, detail }| AuditProblem {
            what: str::to_owned(what),
            detail,
            since_s,
        };
        PodAudit {
            namespace: orphan.namespace().to_owned(),
            name: orphan.name(),
            state,
            since_s,
            mode: "CLOSED".to_owned(),
            problems: findings.into_iter().map(problem).collect(),
            ..PodAudit::default()
        }
    }

    fn closed(
        &self,
        closed: &ClosedPod,
        pod: &str,
        repaired: &mut Vec<Finding>,
    ) -> (AuditState, Vec<Finding>) {
        let kernel = &*self.shared.interceptor;
        let faults = match kernel.closed_faults(closed) {
            Ok(faults) => faults,
            Err(error) => {
                let finding = Finding::new("unknown", error.to_string());
                return (AuditState::Unknown, vec![finding]);
            }
        };
        if faults.is_empty() {
            return (AuditState::Orphaned, Vec::new());
        }
        let findings: Vec<_> = faults.iter().map(Finding::from).collect();
        let mended = Leave::new(kernel)
            .get()
            .and_then(|repairs| repairs.closed(closed).map_err(|error| error.to_string()));
        let Err(error) = mended else {
            for Finding { what, detail } in &findings {
                tracing::warn!(target: "audit", pod, what, %detail, "repaired");
            }
            repaired.extend(findings);
            return (AuditState::Orphaned, Vec::new());
        };
        let standing = findings.into_iter().map(|Finding { what, detail }| {
            Finding::new(what, format!("{detail}; it cannot be put back: {error}"))
        });
        (AuditState::Uncovered, standing.collect())
    }
}
