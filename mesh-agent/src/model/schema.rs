//! The resources that k8s-openapi does not have: our own `MeshConfig` and Istio's
//! `PeerAuthentication` and `AuthorizationPolicy`. Unknown fields are errors: a misspelt field in a
//! security setting must not be read as its absence. Parsed by `config`.

mod authorization;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::IgnoredAny;

pub use authorization::{
    AuthorizationPolicy, AuthorizationPolicySpec, Condition, ExtensionProvider, Operation,
    PolicyAction, PolicyRule, RuleFrom, RuleTo, Source, TargetRef,
};

/// `isthmus.dev/v1alpha1/MeshConfig`: settings of the whole mesh. There is one,
/// and its name is `mesh`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshConfig {
    /// `isthmus.dev/v1alpha1`
    pub api_version: String,
    /// `MeshConfig`
    pub kind: String,
    /// Standard object metadata.
    pub metadata: ObjectMeta,
    /// The settings.
    #[serde(default)]
    pub spec: MeshConfigSpec,
    /// Of no meaning here.
    #[serde(default)]
    pub status: Ignored,
}

/// The settings of a [`MeshConfig`]; every one has a default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshConfigSpec {
    /// The SPIFFE trust domain, `cluster.local` when absent.
    pub trust_domain: Option<String>,
    /// Further names of the trust domain in policies.
    #[serde(default)]
    pub trust_domain_aliases: Vec<String>,
    /// The path of its workloads' SPIFFE IDs, `/ns/{namespace}/sa/{serviceAccount}` when
    /// absent. Not in Istio.
    pub spiffe_id_template: Option<String>,
    /// The namespace whose policies hold mesh-wide, `istio-system` when absent.
    pub root_namespace: Option<String>,
    /// How workloads do TLS with each other.
    #[serde(rename = "meshMTLS")]
    pub mesh_mtls: Option<TlsConfig>,
    /// What vouches for the workloads of other meshes.
    #[serde(default)]
    pub ca_certificates: Vec<CertificateData>,
    /// What is made of revocation lists.
    #[serde(default)]
    pub revocation: RevocationSpec,
    /// CIDR blocks of the cluster's pods and Services: an address in them that no object has is
    /// refused, never dialled in plaintext. Not in Istio.
    #[serde(default)]
    pub cluster_ranges: Vec<String>,
}

/// Istio's `MeshConfig.TLSConfig`. The words are read where they are used, so that
/// each can be complained of by its field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsConfig {
    /// `TLS_AUTO` (the default, as `TLSV1_3`), `TLSV1_2` or `TLSV1_3`.
    pub min_protocol_version: Option<String>,
    /// Names of suites, the preferred one first; all when empty.
    #[serde(default)]
    pub cipher_suites: Vec<String>,
    /// Names of key exchanges, the preferred one first; all when empty.
    #[serde(default)]
    pub ecdh_curves: Vec<String>,
}

/// Istio's `MeshConfig.CertificateData`, with a place for revocation lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateData {
    /// The trust domains that it is about.
    #[serde(default)]
    pub trust_domains: Vec<String>,
    /// The path of their workloads' SPIFFE IDs, as in
    /// [`spiffe_id_template`](MeshConfigSpec::spiffe_id_template).
    pub spiffe_id_template: Option<String>,
    /// Root certificates in PEM.
    pub pem: String,
    /// Revocation lists in PEM; without, nothing of the other mesh is taken for
    /// revoked. Not in Istio.
    pub crl: Option<String>,
}

/// What is made of revocation lists. Not in Istio.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RevocationSpec {
    /// What to do with peers when the list that should speak of them cannot be
    /// read or is past its time.
    #[serde(default)]
    pub stale_lists: StaleListsMode,
}

/// Values of [`RevocationSpec::stale_lists`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum StaleListsMode {
    /// Refuse them.
    #[default]
    Refuse,
    /// Let them in.
    Allow,
}

/// `security.istio.io/PeerAuthentication`, versions `v1` and `v1beta1`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerAuthentication {
    /// `security.istio.io/v1` or `security.istio.io/v1beta1`
    pub api_version: String,
    /// `PeerAuthentication`
    pub kind: String,
    /// Standard object metadata.
    pub metadata: ObjectMeta,
    /// The rule.
    #[serde(default)]
    pub spec: PeerAuthenticationSpec,
    /// Written by Istio, of no meaning here.
    #[serde(default)]
    pub status: Ignored,
}

/// The rule of a [`PeerAuthentication`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerAuthenticationSpec {
    /// The workloads it holds for; absent or empty means all.
    pub selector: Option<LabelSelector>,
    /// What is asked of a connection.
    pub mtls: Option<MutualTls>,
    /// What is asked of a connection, by port of the workload. Not empty.
    pub port_level_mtls: Option<BTreeMap<String, MutualTls>>,
}

/// Istio's `WorkloadSelector`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    /// Labels that a workload must have, all of them.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
}

/// Istio's `PeerAuthentication.MutualTLS`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MutualTls {
    /// The mode, `UNSET` when absent.
    #[serde(default)]
    pub mode: MutualTlsMode,
}

/// Istio's `PeerAuthentication.MutualTLS.Mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum MutualTlsMode {
    /// Inherit; at the top that is `PERMISSIVE`.
    #[default]
    Unset,
    /// No tunnel towards the workload.
    Disable,
    /// Plaintext and mutual TLS are both taken.
    Permissive,
    /// Only mutual TLS is taken.
    Strict,
}

/// A value that is read past; any two are equal.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Ignored(#[serde(skip_serializing)] IgnoredAny);

impl PartialEq for Ignored {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
