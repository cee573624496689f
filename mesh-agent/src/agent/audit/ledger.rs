//! What the audits found: how each pod stands and since when, and what was put back. Time
//! is an input; what changed is logged, once.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::inspect::Finding;
use crate::admin::api::{AuditProblem, AuditRepair, AuditReport, AuditState, PodAudit};
use crate::intercept::Fault;
use crate::model::Workload;

/// Repairs that are remembered.
const REPAIRS: usize = 100;

/// What one run found of the node or of one pod.
pub(super) struct Examined {
    /// `None` for the node.
    pub(super) workload: Option<Arc<Workload>>,
    pub(super) strict: bool,
    /// Why it could not be found out.
    pub(super) unknown: Option<String>,
    /// Why it could not be put back.
    pub(super) error: Option<String>,
    /// What is at fault still.
    pub(super) standing: Vec<Finding>,
    /// What was at fault and is no more.
    pub(super) repaired: Vec<Finding>,
    /// Connections older than the enrolment.
    pub(super) older: Vec<String>,
    /// TCP that passes the pod's devices without a socket of the pod.
    pub(super) beside: Option<Finding>,
}

impl Examined {
    pub(super) fn node() -> Self {
        Self {
            workload: None,
            strict: false,
            unknown: None,
            error: None,
            standing: Vec::new(),
            repaired: Vec::new(),
            older: Vec::new(),
            beside: None,
        }
    }

    pub(super) fn pod(workload: &Arc<Workload>, strict: bool) -> Self {
        Self {
            workload: Some(Arc::clone(workload)),
            strict,
            ..Self::node()
        }
    }

    /// Takes what was at fault before a repair and is after it, and what the repair said.
    pub(super) fn settle(&mut self, before: &[Fault], after: &[Fault], error: Option<String>) {
        let gone = before.iter().filter(|fault| !after.contains(fault));
        self.repaired.extend(gone.map(Finding::from));
        self.standing = after.iter().map(Finding::from).collect();
        self.error = error;
    }

    /// Looks anew after a repair of another kind.
    pub(super) fn look_again(&mut self, after: Result<Vec<Fault>, String>) {
        match after {
            Ok(after) => {
                self.error = None;
                let before = std::mem::take(&mut self.standing);
                self.standing = after.iter().map(Finding::from).collect();
                let kinds: Vec<_> = self.standing.iter().map(|it| it.what).collect();
                let gone = before.into_iter().filter(|it| !kinds.contains(&it.what));
                self.repaired.extend(gone);
            }
            Err(error) => self.unknown = Some(error),
        }
    }

    /// Whether anything was at fault.
    pub(super) fn changed(&self) -> bool {
        !self.standing.is_empty() || !self.repaired.is_empty()
    }

    /// Whether this is at fault still.
    pub(super) fn lacks(&self, fault: &Fault) -> bool {
        self.standing
            .iter()
            .any(|finding| finding.what == fault.what())
    }
}

/// One run, as [`Ledger::record`] takes it.
pub(super) struct Run {
    pub(super) began: Instant,
    pub(super) ended: Instant,
    pub(super) node: Examined,
    pub(super) pods: Vec<Examined>,
}

/// How the node or a pod stood at the last run.
struct Standing {
    workload: Option<Arc<Workload>>,
    strict: bool,
    state: AuditState,
    since: Instant,
    problems: Vec<(Finding, Instant)>,
    older: Vec<String>,
    /// When that run began: what it found in place was there then.
    last_run: Instant,
}

struct Repaired {
    pod: Option<Arc<str>>,
    finding: Finding,
    at: Instant,
    missing_at_most: Option<Duration>,
}

/// What all runs found so far.
#[derive(Default)]
pub(in crate::agent) struct Ledger {
    runs: u64,
    last: Option<(Instant, Duration)>,
    node: Option<Standing>,
    pods: BTreeMap<Arc<str>, Standing>,
    repairs: VecDeque<Repaired>,
    counts: BTreeMap<&'static str, u64>,
    /// Pods whose object is gone, at the last run.
    orphans: Vec<PodAudit>,
}

impl Ledger {
    /// The number of the run that begins now.
    pub(super) fn next_run(&mut self) -> u64 {
        self.runs += 1;
        self.runs
    }

    /// Takes a run in, and logs what changed since the last.
    pub(super) fn record(&mut self, run: Run) {
        let Run {
            began,
            ended,
            node,
            pods,
        } = run;
        self.last = Some((ended, ended - began));
        let node_before = self.node.take();
        self.repaired(&node, node_before.as_ref(), ended);
        let unknown = node.unknown.clone();
        let node = stand(node, &[], node_before, began, ended);
        let shared: Vec<Finding> = match node.state {
            AuditState::Uncovered => node.problems.iter().map(|(it, _)| it.clone()).collect(),
            AuditState::Covered
            | AuditState::PartlyCovered
            | AuditState::Orphaned
            | AuditState::Unknown => Vec::new(),
        };
        self.node = Some(node);
        let mut before = std::mem::take(&mut self.pods);
        for mut examined in pods {
            let Some(workload) = examined.workload.clone() else {
                continue;
            };
            let uid = Arc::clone(&workload.uid);
            let earlier = before.remove(&uid);
            self.repaired(&examined, earlier.as_ref(), ended);
            examined.unknown = examined.unknown.or_else(|| unknown.clone());
            let standing = stand(examined, &shared, earlier, began, ended);
            self.pods.insert(uid, standing);
        }
    }

    fn repaired(&mut self, examined: &Examined, before: Option<&Standing>, at: Instant) {
        let uid = examined
            .workload
            .as_ref()
            .map(|workload| Arc::clone(&workload.uid));
        for finding in &examined.repaired {
            let pod = uid.as_deref().unwrap_or("all");
            tracing::warn!(target: "audit", pod, what = finding.what, detail = %finding.detail,
                "repaired");
            *self.counts.entry(finding.what).or_default() += 1;
            if self.repairs.len() == REPAIRS {
                self.repairs.pop_front();
            }
            let in_place_since = before.map(|before| {
                let first = before
                    .problems
                    .iter()
                    .find(|(it, _)| it.what == finding.what);
                first.map_or(before.last_run, |(_, since)| *since)
            });
            self.repairs.push_back(Repaired {
                pod: uid.clone(),
                finding: finding.clone(),
                at,
                missing_at_most: in_place_since.map(|since| at - since),
            });
        }
    }

    /// Takes in how the pods stand whose object is gone, and what was put back of them.
    pub(super) fn record_orphans(&mut self, orphans: Vec<PodAudit>, repaired: &[Finding]) {
        self.orphans = orphans;
        for finding in repaired {
            *self.counts.entry(finding.what).or_default() += 1;
        }
    }

    /// How many pods are in each state.
    pub(in crate::agent) fn states(&self) -> HashMap<AuditState, usize> {
        let mut states: HashMap<_, _> = AuditState::ALL.map(|state| (state, 0)).into();
        let pods = self.pods.values().map(|standing| standing.state);
        for state in pods.chain(self.orphans.iter().map(|orphan| orphan.state)) {
            *states.entry(state).or_default() += 1;
        }
        states
    }

    /// Repairs by kind, since the start.
    pub(in crate::agent) fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    /// When the last run ended, and how long it took.
    pub(in crate::agent) fn last(&self) -> Option<(Instant, Duration)> {
        self.last
    }

    /// The report on the last run, as told at `now`.
    pub(super) fn report(&self, node: &str, now: Instant) -> AuditReport {
        let pods = self.pods.values().filter_map(|standing| pod(standing, now));
        let pods = pods.chain(self.orphans.iter().cloned());
        let repairs = self.repairs.iter().map(|repaired| AuditRepair {
            pod: repaired.pod.as_deref().map(str::to_owned),
            what: repaired.finding.what.to_owned(),
            detail: repaired.finding.detail.clone(),
            ago_s: (now - repaired.at).as_secs(),
            missing_at_most_ms: repaired.missing_at_most.map(millis),
        });
        AuditReport {
            node: node.to_owned(),
            run: self.runs,
            took_us: self.last.map_or(0, |(_, took)| took.as_micros() as u64),
            node_problems: self
                .node
                .as_ref()
                .map_or_else(Vec::new, |it| problems(it, now)),
            pods: pods.collect(),
            repairs: repairs.collect(),
        }
    }
}

/// How something stands after a run, given how it stood before. What all pods depend on
/// and is missing (`shared`) is missing to each.
fn stand(
    found: Examined,
    shared: &[Finding],
    before: Option<Standing>,
    began: Instant,
    now: Instant,
) -> Standing {
    let unknown = found.unknown.map(|text| Finding::new("unknown", text));
    let state = match (&unknown, found.standing.is_empty() && shared.is_empty()) {
        (_, false) => AuditState::Uncovered,
        (Some(_), true) => AuditState::Unknown,
        (None, true) if found.beside.is_some() => AuditState::PartlyCovered,
        (None, true) => AuditState::Covered,
    };
    let known = before
        .as_ref()
        .map_or(&[][..], |before| &before.problems[..]);
    let since = |finding: &Finding| {
        let known = known.iter().find(|(it, _)| it == finding);
        known.map_or(now, |(_, since)| *since)
    };
    let mut standing = found.standing;
    if let Some(error) = &found.error {
        for finding in &mut standing {
            finding
                .detail
                .push_str(&format!("; it cannot be put back: {error}"));
        }
    }
    standing.extend_from_slice(shared);
    standing.extend(found.beside);
    let all = standing.into_iter().chain(unknown);
    let problems: Vec<_> = all.map(|finding| (since(&finding), finding)).collect();
    let problems: Vec<_> = problems
        .into_iter()
        .map(|(since, it)| (it, since))
        .collect();
    let was = before.as_ref().map(|before| before.state);
    let standing = Standing {
        state,
        since: before
            .filter(|before| before.state == state)
            .map_or(now, |it| it.since),
        workload: found.workload,
        strict: found.strict,
        problems,
        older: found.older,
        last_run: began,
    };
    tell(&standing, was);
    standing
}

fn tell(standing: &Standing, was: Option<AuditState>) {
    let pod = standing
        .workload
        .as_ref()
        .map_or("all", |workload| &*workload.uid);
    let state = standing.state;
    if was == Some(state) || (was.is_none() && state == AuditState::Covered) {
        return;
    }
    if state == AuditState::Covered {
        return tracing::info!(target: "audit", pod, "covered");
    }
    for (problem, _) in &standing.problems {
        tracing::error!(target: "audit", pod, what = problem.what, detail = %problem.detail,
            "{}", state.as_str());
    }
}

fn pod(standing: &Standing, now: Instant) -> Option<PodAudit> {
    let workload = standing.workload.as_ref()?;
    Some(PodAudit {
        namespace: workload.namespace.to_string(),
        name: workload.name.to_string(),
        state: standing.state,
        since_s: (now - standing.since).as_secs(),
        mode: if standing.strict {
            "STRICT"
        } else {
            "PERMISSIVE"
        }
        .to_owned(),
        problems: problems(standing, now),
        older_connections: standing.older.clone(),
        probes: Vec::new(),
    })
}

fn problems(standing: &Standing, now: Instant) -> Vec<AuditProblem> {
    let problem = |(finding, since): &(Finding, Instant)| AuditProblem {
        what: finding.what.to_owned(),
        detail: finding.detail.clone(),
        since_s: (now - *since).as_secs(),
    };
    standing.problems.iter().map(problem).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
