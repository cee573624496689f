//! What is watched, and how it is asked for.

use kube::core::{ApiResource, GroupVersionKind};

use crate::model::UnreadKind;

/// The namespace of Isthmus itself, whose MeshConfig holds.
pub const NAMESPACE: &str = "isthmus-system";

/// One kind of objects in one version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
    pub(super) plural: String,
}

/// A kind that need not be installed, with the versions that are read, the preferred
/// one first.
pub(super) struct Optional {
    pub(super) group: &'static str,
    pub(super) versions: &'static [&'static str],
    pub(super) kind: &'static str,
    pub(super) plural: &'static str,
}

/// Those of ours and Istio's that are acted on.
pub(super) const OPTIONAL: [Optional; 3] = [
    Optional {
        group: "security.istio.io",
        versions: &["v1", "v1beta1"],
        kind: "PeerAuthentication",
        plural: "peerauthentications",
    },
    Optional {
        group: "security.istio.io",
        versions: &["v1", "v1beta1"],
        kind: "AuthorizationPolicy",
        plural: "authorizationpolicies",
    },
    Optional {
        group: "isthmus.dev",
        versions: &["v1alpha1"],
        kind: "MeshConfig",
        plural: "meshconfigs",
    },
];

/// The kinds of policy, which have a status, by the name of the kind.
pub(super) const POLICIES: [(&str, UnreadKind); 2] = [
    (
        "authorizationpolicies.security.istio.io",
        UnreadKind::AuthorizationPolicy,
    ),
    (
        "peerauthentications.security.istio.io",
        UnreadKind::PeerAuthentication,
    ),
];

/// The kinds that every API server has.
pub(super) fn always() -> [Kind; 5] {
    [
        Kind::new("", "v1", "Namespace", "namespaces"),
        Kind::new("", "v1", "Node", "nodes"),
        Kind::new("", "v1", "Pod", "pods"),
        Kind::new("", "v1", "Service", "services"),
        Kind::new("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
    ]
}

/// Names of the kinds without whose lists no world is told.
pub(super) fn needed() -> impl Iterator<Item = String> {
    let always = always().map(|kind| kind.name());
    let optional = OPTIONAL.map(|kind| Kind::new(kind.group, "", kind.kind, kind.plural).name());
    always.into_iter().chain(optional)
}

impl Kind {
    pub(super) fn new(group: &str, version: &str, kind: &str, plural: &str) -> Self {
        Self {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        }
    }

    /// Tells kinds apart whatever the version: `pods`, `meshconfigs.isthmus.dev`.
    pub(super) fn name(&self) -> String {
        match self.group.is_empty() {
            true => self.plural.clone(),
            false => format!("{}.{}", self.plural, self.group),
        }
    }

    /// As in `apiVersion`.
    pub(super) fn api_version(&self) -> String {
        match self.group.is_empty() {
            true => self.version.clone(),
            false => format!("{}/{}", self.group, self.version),
        }
    }

    /// For the client.
    pub(super) fn resource(&self) -> ApiResource {
        let gvk = GroupVersionKind::gvk(&self.group, &self.version, &self.kind);
        ApiResource::from_gvk_with_plural(&gvk, &self.plural)
    }
}
