//! Why a connection is not permitted, in full: the policy, the rule, or the nearest
//! one that might have let it in.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::identity::TrustDomain;
use crate::model::{ClusterRange, Staleness};
use crate::observe::Reason;

/// Names one policy. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyRef {
    /// The policy's namespace; empty for what stands for a file that cannot be read.
    pub namespace: Arc<str>,
    /// The policy's name, or the file.
    pub name: Arc<str>,
}

/// Who a denied peer was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// It proved this identity, written as policies do: without `spiffe://`.
    Proven(Arc<str>),
    /// It came without mutual TLS, and so without an identity.
    AbsentInPlaintext,
}

/// Whose mode is in force for a port.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum ModeSource {
    /// Nobody's: PERMISSIVE is Istio's default.
    #[default]
    Default,
    /// This PeerAuthentication's.
    Policy(PolicyRef),
    /// This PeerAuthentication, or file that may hold one, could not be used and might
    /// have asked for STRICT.
    Unusable(PolicyRef),
    /// No configuration was read yet.
    NotSynced,
}

/// The rule that came nearest to letting a connection in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearestMiss {
    /// The ALLOW policy.
    pub policy: PolicyRef,
    /// Which of its rules, counted from 0 as in `spec.rules`; `None` if it has none
    /// and so allows nothing.
    pub rule: Option<usize>,
    /// The first field that did not match, as a path in the rule.
    pub field: String,
    /// What the connection had there.
    pub seen: String,
    /// What the rule asks for there.
    pub wanted: String,
}

/// Why a connection is not permitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The workload's port is STRICT and the peer came without mutual TLS.
    #[error(
        "the workload takes mutual TLS only (STRICT by {from}) and the peer sent plaintext, so it has no identity"
    )]
    PlaintextInStrict {
        /// Who says so.
        from: ModeSource,
    },
    /// The peer's identity is of a trust domain for which nothing vouches here.
    #[error(
        "the peer's trust domain {presented} is neither this mesh's ({own}) nor one of the MeshConfig's caCertificates"
    )]
    ForeignTrustDomain {
        /// The trust domain in the peer's certificate.
        presented: TrustDomain,
        /// This mesh's.
        own: TrustDomain,
    },
    /// Part of the configuration could not be read, so an address that seems to
    /// be outside the mesh may belong to a workload that asked for encryption.
    #[error(
        "the configuration is not complete, so whether the destination is in the mesh is not known"
    )]
    DestinationUnknown,
    /// An address of the cluster that no pod and no Service has.
    #[error(
        "{address} is in {range} and belongs to no pod and no Service that is known{}, so whether it is in the mesh is not known",
        OutOfDate(.stale.as_ref())
    )]
    AddressUnlisted {
        /// The address.
        address: IpAddr,
        /// The range that it is in.
        range: ClusterRange,
        /// How long what is known may have been out of date.
        stale: Option<Staleness>,
    },
    /// A rule of a DENY policy matched.
    #[error("AuthorizationPolicy {policy} denies {identity} (spec.rules[{rule}])")]
    Policy {
        /// The DENY policy.
        policy: PolicyRef,
        /// Which of its rules, counted from 0.
        rule: usize,
        /// Who was refused.
        identity: Identity,
    },
    /// There are ALLOW policies for the workload and none of their rules matched.
    #[error("no ALLOW policy matched {identity}{}", Nearest(.nearest.as_deref()))]
    NoAllow {
        /// The rule that came nearest, of the first 512.
        nearest: Option<Box<NearestMiss>>,
        /// Who was refused.
        identity: Identity,
    },
    /// A policy that may hold for the workload cannot be used, and no earlier version
    /// of it is known.
    #[error(
        "AuthorizationPolicy {policy} cannot be used as it is written and no good version of it is known, so {identity} is refused (see mesh-agent problems)"
    )]
    PolicyUnusable {
        /// The policy, or the file that may hold one.
        policy: PolicyRef,
        /// Who was refused.
        identity: Identity,
    },
    /// No configuration was read yet, so what policies there are is not known.
    #[error("no configuration was read yet, so which policies hold is not known")]
    NotSynced,
}

impl Denial {
    /// The stable code of this denial.
    pub fn reason(&self) -> Reason {
        match self {
            Self::PlaintextInStrict { .. } => Reason::PlaintextRefused,
            Self::ForeignTrustDomain { .. } => Reason::TlsForeignTrustDomain,
            Self::DestinationUnknown | Self::AddressUnlisted { .. } => Reason::DestinationUnknown,
            Self::Policy { .. } => Reason::PolicyDenied,
            Self::NoAllow { .. } => Reason::PolicyNoAllow,
            Self::PolicyUnusable { .. } => Reason::PolicyUnusable,
            Self::NotSynced => Reason::PolicyNotSynced,
        }
    }

    /// The policy that refused, if one did.
    pub fn policy(&self) -> Option<&PolicyRef> {
        match self {
            Self::Policy { policy, .. } | Self::PolicyUnusable { policy, .. } => Some(policy),
            Self::PlaintextInStrict {
                from: ModeSource::Policy(policy) | ModeSource::Unusable(policy),
            } => Some(policy),
            _ => None,
        }
    }
}

struct OutOfDate<'a>(Option<&'a Staleness>);

impl fmt::Display for OutOfDate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |stale| write!(f, "; {stale}"))
    }
}

struct Nearest<'a>(Option<&'a NearestMiss>);

impl fmt::Display for Nearest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .map_or(Ok(()), |miss| write!(f, "; nearest was {miss}"))
    }
}

impl fmt::Display for NearestMiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            policy,
            field,
            seen,
            wanted,
            ..
        } = self;
        match self.rule {
            None => write!(f, "{policy}, which has no rules and so allows nothing"),
            Some(rule) => write!(
                f,
                "{policy} spec.rules[{rule}]: {field} wants {wanted} and saw {seen}"
            ),
        }
    }
}

impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proven(identity) => f.write_str(identity),
            Self::AbsentInPlaintext => f.write_str("a peer without identity (plaintext)"),
        }
    }
}

impl fmt::Display for ModeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Policy(policy) => write!(f, "PeerAuthentication {policy}"),
            Self::Unusable(policy) => {
                write!(f, "PeerAuthentication {policy}, which cannot be used")
            }
            Self::NotSynced => f.write_str("default while no configuration was read"),
        }
    }
}
