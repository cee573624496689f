//! The files of `deploy/`, as they were when this binary was built: one list, which a test
//! compares with the folder.

/// A file of `deploy/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File {
    /// Its path below `deploy/`.
    pub path: &'static str,
    /// Its text.
    pub text: &'static str,
}

macro_rules! files {
    ($($path:literal,)*) => {
        &[$(File {
            path: $path,
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/", $path)),
        },)*]
    };
}

/// All of them, by path.
pub const FILES: &[File] = files![
    "base/agent-guard.yaml",
    "base/agent-rbac.yaml",
    "base/agent.yaml",
    "base/ca-rbac.yaml",
    "base/ca.yaml",
    "base/kustomization.yaml",
    "base/namespace.yaml",
    "base/network-policies.yaml",
    "crds/isthmus/kustomization.yaml",
    "crds/isthmus/meshconfigs.yaml",
    "crds/istio/authorizationpolicies.yaml",
    "crds/istio/kustomization.yaml",
    "crds/istio/peerauthentications.yaml",
    "crds/kustomization.yaml",
    "kustomization.yaml",
    "overlays/eks/agent.yaml",
    "overlays/eks/kustomization.yaml",
    "overlays/gke/agent.yaml",
    "overlays/gke/kustomization.yaml",
    "overlays/gke/quota.yaml",
    "overlays/istio-crds/kustomization.yaml",
    "overlays/k3s/agent.yaml",
    "overlays/k3s/kustomization.yaml",
    "overlays/kind/kustomization.yaml",
    "overlays/openshift/agent.yaml",
    "overlays/openshift/ca.yaml",
    "overlays/openshift/kustomization.yaml",
    "overlays/openshift/scc.yaml",
];

/// The text of a file.
pub(super) fn text(path: &str) -> Option<&'static str> {
    let found = FILES.iter().find(|file| file.path == path);
    found.map(|file| file.text)
}
