//! What the administrative socket answers, as types: the agent fills them, the command
//! line reads them back. Fields are only ever added.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `GET /status`: the agent at a glance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Name of the node that the agent serves.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// Process id of the agent.
    pub pid: u32,
    /// Seconds since the agent started.
    pub uptime_s: u64,
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
    /// The folder it is read from.
    pub dir: String,
    /// Grows by one with each configuration that was put in force.
    pub generation: u64,
    /// What is wrong in it, one line each, naming file and field.
    pub problems: Vec<String>,
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
}

/// What the process may use, and uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Open file descriptors.
    pub open_files: u64,
    /// The soft limit of open file descriptors.
    pub max_open_files: u64,
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
}

/// Where a workload stands with the agent that answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadState {
    /// Its traffic goes through this agent.
    Enrolled,
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
}

impl WorkloadState {
    /// The state's name, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::Refusing => "refusing",
            Self::Pending => "pending",
            Self::NotEnrolled => "not-enrolled",
            Self::Draining => "draining",
            Self::Remote => "remote",
            Self::OutsideMesh => "outside-mesh",
        }
    }
}
