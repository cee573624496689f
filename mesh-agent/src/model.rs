//! The world as the mesh sees it: workloads, services and the mesh-wide
//! settings, made from Kubernetes-shaped objects.
//!
//! Everything here is pure: objects in, a [`World`] and its [`Problem`]s out. The
//! sources of `config`, a folder and the Kubernetes API, call [`build()`]. The proxy asks a [`World`] where a
//! connection goes, the agent asks it which pods of its node to enrol.
//!
//! Rules that hold throughout:
//! - What is ambiguous is nobody's: an address that two pods claim resolves to
//!   [`Resolution::Disputed`], never to one of them and never to the outside.
//! - A broken or contradictory object does not undo what was good: a pod that was
//!   fine in the previous generation keeps that form until it is fine again or gone.
//! - The result does not depend on the order in which objects arrive.
//!
//! Policies are checked and compiled here, and judged by `policy`. Resources that would
//! change traffic and are not known are reported as not enforced, so that nobody
//! believes they protect something.

mod address;
mod build;
mod keys;
mod network_policies;
mod object;
mod pods;
mod policies;
mod problem;
mod ranges;
pub(crate) mod schema;
mod services;
mod settings;
mod workload;
mod world;

#[cfg(test)]
mod tests;

pub use build::{Built, build};
pub(crate) use keys::STATUS as STATUS_ANNOTATION;
pub(crate) use keys::asks_for_mesh;
pub use network_policies::{NetworkPolicies, NetworkPolicy, ShutPort};
pub use object::{Objects, Origin, Sourced, Unenforced, UnreadKind, UnreadPolicy};
pub(crate) use object::{key, namespace};
pub use pods::{BadAddress, Place, Pod, Seen, Stage};
pub(crate) use pods::{ContainerPort, addresses, hbone_port_names, hbone_ports, order, ours};
pub(crate) use policies::target_kind::is_of_gateways;
pub(crate) use policies::trial;
pub use problem::{Problem, Severity};
pub use ranges::{ClusterRange, ServiceCidr, Staleness};
pub use schema::{
    AuthorizationPolicy, AuthorizationPolicySpec, CertificateData, Condition, ExtensionProvider,
    LabelSelector, MeshConfig, MeshConfigSpec, MutualTls, MutualTlsMode, Operation,
    PeerAuthentication, PeerAuthenticationSpec, PolicyAction, PolicyRule, RevocationSpec, RuleFrom,
    RuleTo, Source, StaleListsMode, TargetRef, TlsConfig,
};
pub use services::{Endpoint, EndpointSlice, Service, ServiceObject};
pub use settings::{DeclaredRanges, MeshSettings, MtlsMode};
pub use workload::{LocalPod, Workload};
pub use world::{Resolution, World};
