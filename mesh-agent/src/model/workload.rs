//! A workload: one pod, as a source or destination of connections.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::object::Origin;
use crate::identity::SpiffeId;

/// One pod. Two generations of a [`World`](super::World) share the `Arc` of a
/// workload that did not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// `<namespace>/<name>`
    pub uid: Arc<str>,
    /// The UID by which the node's kubelet knows the pod; none of a folder's, mostly.
    pub kube_uid: Option<Arc<str>>,
    /// The pod's name.
    pub name: Arc<str>,
    /// The pod's namespace.
    pub namespace: Arc<str>,
    /// `spec.serviceAccountName`, `default` when absent.
    pub service_account: Arc<str>,
    /// `spec.nodeName`, empty when not scheduled.
    pub node: Arc<str>,
    /// What its certificate says, and what a client must find there.
    pub identity: SpiffeId,
    /// The DNS names with which it may prove itself instead of with its SPIFFE ID:
    /// lower-case, sorted, without wildcards. Empty for almost all.
    pub tls_names: Arc<[Arc<str>]>,
    /// `status.podIPs`, canonical and sorted. Empty for a pod of the host's network,
    /// whose addresses are the node's and identify nobody.
    pub addresses: Vec<IpAddr>,
    /// Whether it takes part in the mesh: reached over HBONE, whichever node it is on.
    pub meshed: bool,
    /// Whether something says so or otherwise: a label of the pod or of its Namespace object, or
    /// `hostNetwork`. False while there is no such Namespace object: a pod that was in the mesh
    /// stays in it then.
    pub membership_known: bool,
    /// `metadata.labels`, by which policies select. Pods of the Kubernetes API that
    /// have the same share them.
    pub labels: Arc<BTreeMap<String, String>>,
    /// `app.kubernetes.io/name`, or else `app`.
    pub app: Option<Arc<str>>,
    /// `app.kubernetes.io/version`, or else `version`.
    pub version: Option<Arc<str>>,
    /// Set when this node's agent is to enrol it: it is meshed, on this node, says
    /// where its namespace and cgroup are, and no other pod claims any of its own.
    pub local: Option<LocalPod>,
    /// Names of its container ports that are TCP 15008, by which a NetworkPolicy may open it.
    pub hbone_ports: Option<Arc<[Box<str>]>>,
    /// Where a pod of this node that is not in the mesh says that it is; of a folder only.
    pub unmeshed_at: Option<Box<LocalPod>>,
    /// Where it was read.
    pub origin: Origin,
}

impl Workload {
    /// Names of its container ports that are TCP 15008.
    pub fn hbone_port_names(&self) -> &[Box<str>] {
        self.hbone_ports.as_deref().unwrap_or_default()
    }
}

/// Where the kernel knows a pod of this node. Both paths are absolute; that they
/// exist is for `config::check_local_pod` to say.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalPod {
    /// A network namespace bound to a path, such as `/run/netns/web`.
    pub netns: PathBuf,
    /// A cgroup v2 directory.
    pub cgroup: PathBuf,
}
