//! The platforms that `deploy/overlays` knows, and telling one by its nodes.

use std::fmt;

use k8s_openapi::api::core::v1::Node;

/// Where the cluster is from: what its nodes have in other places than most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Platform {
    /// The usual places: /etc/cni/net.d and /opt/cni/bin.
    #[default]
    Generic,
    /// kind, whose nodes are containers.
    Kind,
    /// k3s, with its own containerd.
    K3s,
    /// Amazon EKS.
    Eks,
    /// Google GKE Standard.
    Gke,
    /// Red Hat OpenShift 4.
    Openshift,
}

impl Platform {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Generic,
        Self::Kind,
        Self::K3s,
        Self::Eks,
        Self::Gke,
        Self::Openshift,
    ];

    /// Its folder below `deploy/`.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Generic => "",
            Self::Kind => "overlays/kind",
            Self::K3s => "overlays/k3s",
            Self::Eks => "overlays/eks",
            Self::Gke => "overlays/gke",
            Self::Openshift => "overlays/openshift",
        }
    }

    /// What the nodes say: of the first that says anything.
    pub fn of(nodes: &[Node]) -> Self {
        let found = nodes.iter().find_map(|node| {
            let info = node.status.as_ref()?.node_info.as_ref()?;
            let provider = node
                .spec
                .as_ref()
                .and_then(|spec| spec.provider_id.as_deref());
            let kubelet = info.kubelet_version.as_str();
            let is_labelled = |label: &str| {
                let labels = node.metadata.labels.as_ref();
                labels.is_some_and(|labels| labels.contains_key(label))
            };
            if kubelet.contains("+k3s") {
                Some(Self::K3s)
            } else if kubelet.contains("-eks-") {
                Some(Self::Eks)
            } else if kubelet.contains("-gke.") {
                Some(Self::Gke)
            } else if is_labelled("node.openshift.io/os_id") {
                Some(Self::Openshift)
            } else if provider.is_some_and(|id| id.starts_with("kind://")) {
                Some(Self::Kind)
            } else {
                None
            }
        });
        found.unwrap_or_default()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Generic => "generic",
            Self::Kind => "kind",
            Self::K3s => "k3s",
            Self::Eks => "eks",
            Self::Gke => "gke",
            Self::Openshift => "openshift",
        })
    }
}
