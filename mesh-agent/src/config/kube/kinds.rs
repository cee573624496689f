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

/// Built-in kinds that not every API server has, or whose objects only explain. No world waits for
/// them. Their absence needs no proof: without them less is known of the cluster's ranges, and
/// less is said of a connection that times out.
pub(super) const BUILT_IN: [Optional; 2] = [
    // Kubernetes 1.33; in 1.31 and 1.32 behind a feature gate.
    Optional {
        group: "networking.k8s.io",
        versions: &["v1", "v1beta1"],
        kind: "ServiceCIDR",
        plural: "servicecidrs",
    },
    Optional {
        group: "networking.k8s.io",
        versions: &["v1"],
        kind: "NetworkPolicy",
        plural: "networkpolicies",
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
    let optional = OPTIONAL.map(|kind| kind.name());
    always.into_iter().chain(optional)
}

impl Optional {
    /// As [`Kind::name`].
    pub(super) fn name(&self) -> String {
        Kind::new(self.group, "", self.kind, self.plural).name()
    }

    /// The kind in each version that is read.
    pub(super) fn kinds(&self) -> impl Iterator<Item = Kind> {
        let versions = self.versions.iter();
        versions.map(|version| Kind::new(self.group, version, self.kind, self.plural))
    }

    /// Whether the kind is read in this version.
    pub(super) fn reads(&self, kind: &Kind) -> bool {
        self.kinds().any(|it| it == *kind)
    }
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
