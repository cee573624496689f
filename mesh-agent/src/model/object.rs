//! What goes into the model: typed objects, each with the place it came from.
//! Filled by `config`, read by the conversions beside this file.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::{Namespace, Node};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::network_policies::NetworkPolicy;
use super::pods::Pod;
use super::ranges::ServiceCidr;
use super::schema::{AuthorizationPolicy, LabelSelector, MeshConfig, PeerAuthentication};
use super::services::{EndpointSlice, ServiceObject};

/// Where an object was read. Orders by file, then by place in the file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The file, as it was found (not canonicalised), or [`Origin::API`].
    pub file: Arc<Path>,
    /// Which object of the file: counted from 1 over its documents and the items
    /// of its lists. 0 for those of the API, whose names tell them apart.
    pub document: usize,
}

/// An object and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Sourced<T> {
    /// The object.
    pub object: T,
    /// Where it was read.
    pub origin: Origin,
}

/// A resource that this version knows of but does not act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unenforced {
    /// As in the resource's `kind`.
    pub kind: String,
    /// As in `metadata.namespace`, `default` when absent.
    pub namespace: String,
    /// As in `metadata.name`.
    pub name: String,
}

/// A policy that is written somewhere and cannot be read, as far as it shows whom it
/// may be for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadPolicy {
    /// What it would be.
    pub kind: UnreadKind,
    /// Its namespace; `None` if it may be any.
    pub namespace: Option<String>,
    /// Its name, if that can be read.
    pub name: Option<String>,
    /// The labels that it selects by; `None` if it may select every workload.
    pub selector: Option<LabelSelector>,
}

/// The kinds that restrict who may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnreadKind {
    /// Its workloads refuse everything.
    AuthorizationPolicy,
    /// Its workloads take mutual TLS only.
    PeerAuthentication,
}

/// The objects of one source (in a folder: of one file), by kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    /// `v1/Namespace`
    pub namespaces: Vec<Sourced<Namespace>>,
    /// `v1/Node`
    pub nodes: Vec<Sourced<Node>>,
    /// `v1/Pod`, the part that is used. One that a later conversion finds to be the same
    /// `Arc` is not converted again.
    pub pods: Vec<Sourced<Arc<Pod>>>,
    /// `v1/Service`, the part that is used.
    pub services: Vec<Sourced<ServiceObject>>,
    /// `discovery.k8s.io/v1/EndpointSlice`, the part that is used.
    pub endpoint_slices: Vec<Sourced<EndpointSlice>>,
    /// `security.istio.io/PeerAuthentication`
    pub peer_authentications: Vec<Sourced<PeerAuthentication>>,
    /// `security.istio.io/AuthorizationPolicy`
    pub authorization_policies: Vec<Sourced<AuthorizationPolicy>>,
    /// `isthmus.dev/v1alpha1/MeshConfig`
    pub mesh_configs: Vec<Sourced<MeshConfig>>,
    /// `networking.k8s.io/v1/NetworkPolicy`, the part that is used.
    pub network_policies: Vec<Sourced<Arc<NetworkPolicy>>>,
    /// `networking.k8s.io/ServiceCIDR`, the part that is used.
    pub service_cidrs: Vec<Sourced<ServiceCidr>>,
    /// Resources whose rules this version does not enforce.
    pub unenforced: Vec<Sourced<Unenforced>>,
    /// Policies that this source may hold where it could not be read.
    pub unread_policies: Vec<Sourced<UnreadPolicy>>,
}

impl Origin {
    /// Stands for a file where objects come from the Kubernetes API.
    pub const API: &str = "the Kubernetes API";

    /// The origin of all objects of the Kubernetes API.
    pub fn api() -> Self {
        static API: LazyLock<Arc<Path>> = LazyLock::new(|| Path::new(Origin::API).into());
        Self {
            file: Arc::clone(&API),
            document: 0,
        }
    }

    /// Whether it is the Kubernetes API.
    pub fn is_of_api(&self) -> bool {
        // No file has a zeroth object.
        self.document == 0
    }

    /// The `document`-th object of `file`.
    pub fn new(file: &Path, document: usize) -> Self {
        Self {
            file: file.into(),
            document,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match self.is_of_api() {
            true => write!(f, "{file}"),
            false => write!(f, "{file} (object {})", self.document),
        }
    }
}

/// `metadata.name`, empty when absent.
pub(super) fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

/// `metadata.namespace`, or the namespace `kubectl` would take without one.
pub(crate) fn namespace(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or("default")
}

/// `<namespace>/<name>`: what tells two objects of one kind apart.
pub(crate) fn key(meta: &ObjectMeta) -> String {
    format!("{}/{}", namespace(meta), name(meta))
}
