//! What the administrative socket answers, as types: the agent fills them, the command
//! line reads them back. Fields are only ever added.

mod audit;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use audit::{AuditProblem, AuditRepair, AuditReport, AuditState, PodAudit, ProbeResult};

/// `GET /status`: the agent at a glance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Name of the node that the agent serves.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// Process id of the agent.
    pub pid: u32,
    /// Which of a node's agents this is: `ISTHMUS_INSTANCE` of its environment, in a cluster
    /// the UID of its pod.
    #[serde(default)]
    pub instance: Option<String>,
    /// Seconds since the agent started.
    pub uptime_s: u64,
    /// Whether no configuration is known yet. What follows from one is empty then.
    #[serde(default)]
    pub starting: bool,
    /// Whether the agent does its work.
    pub ready: bool,
    /// What keeps it from being ready, one sentence each.
    pub not_ready: Vec<String>,
    /// The mesh's SPIFFE trust domain.
    pub trust_domain: String,
    /// `STRICT` or `PERMISSIVE`.
    pub inbound_mode: String,
    /// The configuration in force.
    pub config: ConfigStatus,
    /// What stands in the kernel.
    pub kernel: KernelStatus,
    /// The CNI plugin's place; none where this agent does not keep it in one.
    #[serde(default)]
    pub cni: Option<CniStatus>,
    /// The kubelet's probes.
    #[serde(default)]
    pub probes: ProbesStatus,
    /// Who certifies the workloads.
    #[serde(default)]
    pub authority: AuthorityStatus,
    /// Trust domains whose workloads are let in.
    #[serde(default)]
    pub trust: Vec<TrustStatus>,
    /// How TLS is done.
    #[serde(default)]
    pub tls: TlsStatus,
    /// Certificates of the local workloads.
    pub certificates: Vec<CertificateStatus>,
    /// Open HBONE tunnels.
    pub tunnels: u64,
    /// Open connections.
    pub connections: u64,
    /// What the process may use.
    pub limits: Limits,
    /// Log lines dropped because the log was not read fast enough.
    pub log_lines_dropped: u64,
}

/// The configuration in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// Where it is read from: a folder, or the Kubernetes API.
    pub dir: String,
    /// How the Kubernetes API is heard, by kind; empty of a folder.
    #[serde(default)]
    pub api: Vec<ApiKindStatus>,
    /// Grows by one with each configuration that was put in force.
    pub generation: u64,
    /// What is wrong in it, one line each, naming file and field.
    pub problems: Vec<String>,
}

/// How the Kubernetes API is heard about one kind. While it is not, what is known stays
/// in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKindStatus {
    /// `pods`, `meshconfigs.isthmus.dev`; `discovery` of which kinds there are.
    pub kind: String,
    /// The version that is watched; none while its definition is not installed.
    pub version: Option<String>,
    /// Whether it was listed in full, or is known not to be installed.
    pub synced: bool,
    /// Seconds since it is not heard; none while it is.
    pub away_for_s: Option<u64>,
    /// Why, as the last attempt failed.
    pub error: Option<String>,
}

/// The CNI plugin in the container runtime's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniStatus {
    /// The file that the runtime uses, with the plugin in it; none while it is in none.
    pub file: Option<String>,
    /// What stands in the way, one line each.
    pub problems: Vec<String>,
}

/// Whether the kubelet's probes reach pods whatever their policy. Without either field
/// nobody's are to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbesStatus {
    /// The kubelet's control group, whose connections pass.
    pub cgroup: Option<String>,
    /// Why none pass.
    pub error: Option<String>,
}

/// What stands in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelStatus {
    /// Release, as `uname -r` gives it.
    pub release: String,
    /// Programs and where they are attached.
    pub attachments: Vec<Attachment>,
    /// The programs' counters, by name.
    pub counters: BTreeMap<String, u64>,
}

/// One attachment of a kernel program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Name of the program.
    pub name: String,
    /// Whether the kernel says that it is attached.
    pub attached: bool,
    /// Id of the link (`bpftool link show id …`).
    pub link_id: Option<u32>,
    /// Id of the program (`bpftool prog show id …`).
    pub prog_id: Option<u32>,
    /// The program's tag, sixteen hexadecimal digits.
    pub tag: Option<String>,
}

/// One certificate of a local workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// SPIFFE URI.
    pub identity: String,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// Seconds until it expires; negative once it has.
    pub expires_in_s: i64,
    /// Where it comes from.
    #[serde(default)]
    pub source: String,
    /// Seconds until a new one is asked for, or asked for again.
    #[serde(default)]
    pub renewal_in_s: i64,
    /// Seconds since renewal began to fail; none while it works.
    #[serde(default)]
    pub failing_for_s: Option<u64>,
    /// Failed attempts since then.
    #[serde(default)]
    pub failed_attempts: u32,
    /// Why the last attempt failed.
    #[serde(default)]
    pub error: Option<String>,
}

/// Who certifies the workloads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityStatus {
    /// `embedded` or `remote`.
    pub kind: String,
    /// Its directory or its address.
    pub place: String,
    /// The folder of certificates that go before it, if there is one.
    pub files: Option<String>,
    /// Whether there is a connection to a remote one.
    pub connected: Option<bool>,
    /// Seconds since a remote one last answered; none when it never did.
    pub answered_s_ago: Option<u64>,
    /// What last went wrong with a remote one; none once it works again.
    pub error: Option<String>,
    /// Where the own trust domain's roots come from, with a remote one.
    pub trust_from: Option<String>,
}

/// A trust domain whose workloads are let in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustStatus {
    /// Its name.
    pub trust_domain: String,
    /// Whether it is the mesh's own.
    pub own: bool,
    /// How many roots vouch for it.
    pub roots: usize,
    /// Roots that cannot be used, and why.
    pub unusable_roots: Vec<String>,
    /// `not-used`, `fresh`, `stale` or `unreadable`.
    pub revocation: String,
    /// Seconds until the first of its revocation lists is out of date; negative since then.
    pub lists_expire_in_s: Option<i64>,
    /// Why its lists cannot be read.
    pub error: Option<String>,
    /// Whether its workloads are refused because their revocation is not known.
    pub refused: bool,
}

/// How TLS is done in handshakes from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsStatus {
    /// Lowest version.
    pub minimum_version: String,
    /// Cipher suites, preferred first.
    pub cipher_suites: Vec<String>,
    /// Key exchanges, preferred first.
    pub key_exchanges: Vec<String>,
    /// Whether the library says of itself, as it is used, that it is in FIPS mode.
    pub fips: bool,
    /// The library, in its own words.
    pub library: String,
}

/// What the process may use, and uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Open file descriptors.
    pub open_files: u64,
    /// The soft limit of open file descriptors.
    pub max_open_files: u64,
    /// Descriptors that the node's pods hold together.
    #[serde(default)]
    pub descriptors: u64,
    /// The most of these.
    #[serde(default)]
    pub max_descriptors: u64,
    /// Bytes that are buffered for the node's pods together.
    #[serde(default)]
    pub buffered_bytes: u64,
    /// The most of these (`--node-buffered-bytes`).
    #[serde(default)]
    pub max_buffered_bytes: u64,
}

/// `GET /workloads`: one workload of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadStatus {
    /// Name of the pod.
    pub name: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Node of the pod.
    pub node: String,
    /// SPIFFE URI.
    pub identity: String,
    /// Its IP addresses.
    pub addresses: Vec<String>,
    /// Whether it runs on the node that answers.
    pub local: bool,
    /// Whether the configuration puts it in the mesh.
    pub meshed: bool,
    /// Where it stands with this agent.
    pub state: WorkloadState,
    /// `STRICT` or `PERMISSIVE`, for a local pod in the mesh.
    pub mode: Option<String>,
    /// Seconds since it came into `state`.
    pub since_s: Option<u64>,
    /// What exactly is missing, one sentence each.
    pub problems: Vec<String>,
    /// Seconds until its certificate expires; negative once it has.
    pub certificate_expires_in_s: Option<i64>,
    /// What the agent holds for it; none for a pod that is not enrolled here.
    #[serde(default)]
    pub budget: Option<BudgetStatus>,
}

/// What the agent holds for one pod, and may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetStatus {
    /// Descriptors, one for each socket.
    pub descriptors: u64,
    /// The most of these (`--pod-descriptors`).
    pub max_descriptors: u64,
    /// Bytes that wait for a reader.
    pub buffered_bytes: u64,
    /// The most of these (`--pod-buffered-bytes`).
    pub max_buffered_bytes: u64,
}

/// Where a workload stands with the agent that answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadState {
    /// Its traffic goes through this agent.
    Enrolled,
    /// The traffic of its sockets goes through this agent, and TCP without a socket of the
    /// pod passes beside it.
    PartlyCovered,
    /// It is in the mesh but cannot be served, so its traffic is refused.
    Refusing,
    /// It is being enrolled.
    Pending,
    /// It is in the mesh but was not enrolled: see its problems.
    #[default]
    NotEnrolled,
    /// Its last connections are ending before it leaves.
    Draining,
    /// It runs on another node.
    Remote,
    /// The configuration leaves it out of the mesh.
    OutsideMesh,
    /// Its object is gone and its processes run: it is guarded and closed.
    Orphaned,
}

impl WorkloadState {
    /// The state's name, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::PartlyCovered => "partly-covered",
            Self::Refusing => "refusing",
            Self::Pending => "pending",
            Self::NotEnrolled => "not-enrolled",
            Self::Draining => "draining",
            Self::Remote => "remote",
            Self::OutsideMesh => "outside-mesh",
            Self::Orphaned => "orphaned",
        }
    }
}
