//! Istio's `AuthorizationPolicy`, as it is written. What its values mean is read in
//! `model::policies`, so that each can be complained of by its field.
//!
//! Fields: <https://istio.io/latest/docs/reference/config/security/authorization-policy/>

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::{Ignored, LabelSelector};

/// `security.istio.io/AuthorizationPolicy`, versions `v1` and `v1beta1`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationPolicy {
    /// `security.istio.io/v1` or `security.istio.io/v1beta1`
    pub api_version: String,
    /// `AuthorizationPolicy`
    pub kind: String,
    /// Standard object metadata; the annotation `istio.io/dry-run` is read.
    pub metadata: ObjectMeta,
    /// The policy; empty is "allow nothing".
    #[serde(default)]
    pub spec: AuthorizationPolicySpec,
    /// Written by Istio, of no meaning here.
    #[serde(default)]
    pub status: Ignored,
}

/// What an [`AuthorizationPolicy`] asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationPolicySpec {
    /// The workloads it holds for; absent or empty means all of its namespace.
    pub selector: Option<LabelSelector>,
    /// The older form of [`AuthorizationPolicySpec::target_refs`], for one.
    pub target_ref: Option<TargetRef>,
    /// The Services whose workloads it holds for. Empty is the same as absent, but does not go
    /// with a selector either.
    pub target_refs: Option<Vec<TargetRef>>,
    /// What becomes of a connection that a rule matches; `ALLOW` when absent.
    #[serde(default)]
    pub action: PolicyAction,
    /// Of the action `CUSTOM`, which is not answered here.
    pub provider: Option<ExtensionProvider>,
    /// A connection matches when one of them does; with none, none does.
    #[serde(default, deserialize_with = "rules")]
    pub rules: Vec<PolicyRule>,
}

impl AuthorizationPolicySpec {
    /// All targets, in either form.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &TargetRef> {
        let one = self.target_ref.iter();
        one.chain(self.target_refs.iter().flatten())
    }
}

/// Values of [`AuthorizationPolicySpec::action`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PolicyAction {
    /// Lets in what matches; where there is one, what none matches is refused.
    #[default]
    Allow,
    /// Refuses what matches, whatever else allows it.
    Deny,
    /// Reports what matches and decides nothing.
    Audit,
    /// Asks another service, which this agent cannot do.
    Custom,
}

/// Istio's `PolicyTargetReference`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRef {
    /// Empty or `core` for a Service.
    #[serde(default)]
    pub group: String,
    /// `Service`; `Gateway`, `GatewayClass` and `ServiceEntry` select no workload.
    pub kind: String,
    /// The target's name.
    pub name: String,
    /// Must be empty: a target is in the policy's own namespace.
    #[serde(default)]
    pub namespace: String,
}

/// Who a `CUSTOM` policy would ask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExtensionProvider {
    /// Its name in Istio's MeshConfig.
    #[serde(default)]
    pub name: String,
}

/// Matches when one of `from`, one of `to` and all of `when` do; each that is
/// absent always does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyRule {
    /// Where the connection comes from.
    pub from: Option<Vec<RuleFrom>>,
    /// What it asks for.
    pub to: Option<Vec<RuleTo>>,
    /// Further conditions.
    #[serde(default)]
    pub when: Vec<Condition>,
}

/// Reads rules. An item that is null (`- ` with nothing behind it) is refused: read as an empty
/// rule, it would match every connection.
fn rules<'de, D: Deserializer<'de>>(reader: D) -> Result<Vec<PolicyRule>, D::Error> {
    struct Item(PolicyRule);

    impl<'de> Deserialize<'de> for Item {
        fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
            let rule = Option::deserialize(reader)?;
            let null = || D::Error::custom("the rule is null; {} matches every connection");
            rule.map(Self).ok_or_else(null)
        }
    }

    let items = Vec::<Item>::deserialize(reader)?;
    Ok(items.into_iter().map(|Item(rule)| rule).collect())
}

/// Wraps a [`Source`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleFrom {
    /// The source.
    pub source: Source,
}

/// Wraps an [`Operation`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleTo {
    /// The operation.
    pub operation: Operation,
}

/// Declares a struct of lists of texts, all optional.
macro_rules! lists {
    ($(#[$outer:meta])* $name:ident { $($(#[$inner:meta])* $field:ident,)* }) => {
        $(#[$outer])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
        pub struct $name { $($(#[$inner])* pub $field: Vec<String>,)* }
    };
}

lists! {
    /// Who connects; all fields that are there must match.
    Source {
        /// `<trust domain>/ns/<namespace>/sa/<service account>`
        principals,
        /// None of these.
        not_principals,
        /// Of a JWT: HTTP only.
        request_principals,
        /// Of a JWT: HTTP only.
        not_request_principals,
        /// The namespace of the peer's identity.
        namespaces,
        /// None of these.
        not_namespaces,
        /// `<namespace>/<service account>`, or an account of the policy's namespace.
        service_accounts,
        /// None of these.
        not_service_accounts,
        /// The trust domain of the peer's identity, as it is in its certificate.
        trust_domains,
        /// None of these.
        not_trust_domains,
        /// The other end of the connection: addresses and CIDR blocks.
        ip_blocks,
        /// None of these.
        not_ip_blocks,
        /// The original client: addresses and CIDR blocks.
        remote_ip_blocks,
        /// None of these.
        not_remote_ip_blocks,
    }
}

lists! {
    /// What is asked for; all fields that are there must match.
    Operation {
        /// HTTP only.
        hosts,
        /// HTTP only.
        not_hosts,
        /// Ports of the workload, as texts.
        ports,
        /// None of these.
        not_ports,
        /// HTTP only.
        methods,
        /// HTTP only.
        not_methods,
        /// HTTP only.
        paths,
        /// HTTP only.
        not_paths,
    }
}

/// One more condition: one of `values` and none of `not_values`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Condition {
    /// An attribute of <https://istio.io/latest/docs/reference/config/security/conditions/>.
    pub key: String,
    /// One of these, where there are any.
    #[serde(default)]
    pub values: Vec<String>,
    /// None of these.
    #[serde(default)]
    pub not_values: Vec<String>,
}
