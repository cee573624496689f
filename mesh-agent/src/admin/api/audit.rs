//! What `GET /audit` answers: what is meant for each pod, against what the kernel has.

use serde::{Deserialize, Serialize};

/// `GET /audit`: one audit of the node, made when it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReport {
    /// Name of the node.
    pub node: String,
    /// Number of this audit, counted since the agent started.
    pub run: u64,
    /// Microseconds that it took.
    pub took_us: u64,
    /// What all pods depend on and is not as it should be.
    pub node_problems: Vec<AuditProblem>,
    /// Every pod of the node that should be in the mesh.
    pub pods: Vec<PodAudit>,
    /// The last repairs, oldest first: of this audit and of those before.
    pub repairs: Vec<AuditRepair>,
}

impl AuditReport {
    /// Whether every pod is covered or closed, and every probe was captured.
    pub fn is_good(&self) -> bool {
        let captured = |pod: &PodAudit| pod.probes.iter().all(|probe| probe.captured);
        let closed = |pod: &PodAudit| pod.state == AuditState::Orphaned;
        let covered = |pod: &PodAudit| pod.state == AuditState::Covered && captured(pod);
        let good = |pod: &PodAudit| covered(pod) || closed(pod);
        self.node_problems.is_empty() && self.pods.iter().all(good)
    }
}

/// Whether a pod's traffic is in the agent's hands.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum AuditState {
    /// The kernel has all that the agent means it to have.
    Covered,
    /// The kernel has it all, and TCP without a socket of the pod passes the pod's devices.
    PartlyCovered,
    /// Something is missing, and could not be put back yet.
    Uncovered,
    /// Its object is gone and its processes run: it is guarded and closed.
    Orphaned,
    /// The kernel could not be asked.
    #[default]
    Unknown,
}

impl AuditState {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 5] = [
        Self::Covered,
        Self::PartlyCovered,
        Self::Uncovered,
        Self::Orphaned,
        Self::Unknown,
    ];

    /// The state's name, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Covered => "covered",
            Self::PartlyCovered => "partly-covered",
            Self::Uncovered => "uncovered",
            Self::Orphaned => "orphaned",
            Self::Unknown => "unknown",
        }
    }
}

/// One pod of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodAudit {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// How it stands.
    pub state: AuditState,
    /// Seconds since it came into `state`.
    pub since_s: u64,
    /// `STRICT` or `PERMISSIVE`: what the guard should have.
    pub mode: String,
    /// What is missing, passes uncovered, or could not be found out.
    pub problems: Vec<AuditProblem>,
    /// Plaintext connections older than the enrolment that go on under PERMISSIVE, which is
    /// no fault: `local -> remote`.
    pub older_connections: Vec<String>,
    /// What the probes found, when they were asked for.
    pub probes: Vec<ProbeResult>,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditProblem {
    /// Of what kind, in the words of `isthmus_audit_repairs_total`.
    pub what: String,
    /// In one sentence.
    pub detail: String,
    /// Seconds since an audit saw it first.
    pub since_s: u64,
}

/// Something that an audit put back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRepair {
    /// `namespace/name` of the pod, or none for what all pods depend on.
    pub pod: Option<String>,
    /// Of what kind.
    pub what: String,
    /// What had been missing, in one sentence.
    pub detail: String,
    /// Seconds since it was put back.
    pub ago_s: u64,
    /// Milliseconds for which it was missing at most: since the last audit that found it in
    /// place. None when no audit ever did.
    pub missing_at_most_ms: Option<u64>,
}

/// A connection that was opened inside a pod to see whether it reaches the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// Where it wanted to go: an address for documentation, which nobody has.
    pub to: String,
    /// Whether the agent accepted it, with this very destination.
    pub captured: bool,
    /// What happened instead.
    pub detail: Option<String>,
}
