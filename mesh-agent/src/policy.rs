//! Who may talk to whom: pure functions of a connection and the mesh's
//! policies. No I/O, no lock, no clock, no logging.
//!
//! Permission is a value. Whatever connects onward takes a permit by reference,
//! and only this module can make one, so no path through the proxy can forget to
//! ask. The same functions judge live connections again when the policy changes,
//! and answer "would this be allowed" where there is no connection.
//!
//! [`inbound`] is asked by the destination's agent always, and through [`outbound`]
//! by the source's agent too. The semantics are Istio's:
//! <https://istio.io/latest/docs/reference/config/security/authorization-policy/>,
//! <https://istio.io/latest/docs/reference/config/security/peer_authentication/>.

mod basis;
mod bucket;
mod decide;
mod denial;
mod empty;
mod impossible;
mod mtls;
mod request;
mod rule;
mod set;
mod values;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use crate::identity::SpiffeId;
use crate::model::{ClusterRange, MeshSettings, Staleness};

pub use basis::{Basis, RuleRef, basis, matching};
pub(crate) use bucket::{Action, Policy};
pub use denial::{Denial, Identity, ModeSource, NearestMiss, PolicyRef};
pub(crate) use impossible::{Impossible, restricts};
pub use mtls::EffectiveMode;
pub(crate) use mtls::{PeerRule, PeerRules};
pub use request::{InboundRequest, Peer};
pub(crate) use rule::{Clause, Group, Part, Rule, Test, Values};
pub use set::Policies;
pub(crate) use set::{Known, Labels, LastGood, Ports, Scope};
pub(crate) use values::{Account, IpBlock, Pattern, Principals};

/// Leave to open a stream to one workload, over mutual TLS and to no other
/// identity than [`TunnelPermit::expected`].
#[derive(Debug)]
#[must_use]
pub struct TunnelPermit {
    expected: SpiffeId,
}

/// Leave to connect without mutual TLS to a destination outside the mesh.
#[derive(Debug)]
#[must_use]
pub struct PlainPermit(());

/// Leave to hand an inbound connection to the application.
#[derive(Debug)]
#[must_use]
pub struct InboundPermit(());

impl TunnelPermit {
    /// The only identity that the other end may present.
    pub fn expected(&self) -> &SpiffeId {
        &self.expected
    }
}

/// Where an outbound connection is going, as far as policy cares.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// A workload in the mesh: the connection as its own agent will be asked about it.
    Meshed(InboundRequest<'a>),
    /// The connecting pod itself, by way of a Service: never leaves the pod.
    SamePod,
    /// A workload or address that is not in the mesh.
    OutsideMesh,
    /// An address of the cluster that no pod and no Service has: a pod that is not known yet
    /// may have it.
    Unlisted {
        /// The address.
        address: IpAddr,
        /// The range that it is in.
        range: &'a ClusterRange,
        /// Whether an EndpointSlice names it, so that it counts as known while what is known is
        /// current.
        is_endpoint: bool,
        /// Set while what is known of the cluster may be out of date.
        stale: Option<&'a Staleness>,
    },
}

/// Leave for an outbound connection, by the only transport it may take.
#[derive(Debug)]
pub enum OutboundPermit {
    /// Over mutual TLS.
    Tunnel(TunnelPermit),
    /// As plain TCP.
    Plain(PlainPermit),
}

/// What policy says of a connection. Making one allocates nothing where the connection
/// is allowed, nothing audits it and no policy is on trial.
#[derive(Debug)]
#[must_use]
pub struct Decision<P> {
    /// Leave, or the reason for which there is none.
    pub outcome: Result<P, Denial>,
    /// The AUDIT policies that matched, each once.
    pub audited: Vec<PolicyRef>,
    /// What the policies under trial (`istio.io/dry-run`) would have decided.
    pub dry_run: Vec<DryRun>,
}

/// What a policy on trial would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DryRun {
    /// The policy.
    pub policy: PolicyRef,
    /// The rule that matched, counted from 0; `None` where an ALLOW policy would refuse
    /// because none of its rules matched, nor any other policy's.
    pub rule: Option<usize>,
    /// What it would do.
    pub would: Would,
}

/// See [`DryRun::would`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Would {
    /// Its rule lets the connection in.
    Allow,
    /// The connection would be refused if the policy were enforced.
    Deny,
}

/// Decides an inbound connection to a workload of `mesh`: plaintext as the port's mode
/// says, identities only of the mesh or of one that it trusts, then the authorization
/// policies that select the workload.
pub fn inbound(
    policies: &Policies,
    mesh: &MeshSettings,
    request: &InboundRequest<'_>,
) -> Decision<InboundPermit> {
    decide::inbound(policies, mesh, request).map(|()| InboundPermit(()))
}

/// Decides an outbound connection. `complete` says whether the configuration was
/// read in full: while it is not, only what is known to be in the mesh may be
/// reached. A workload in the mesh is reached if its own agent would let the
/// connection in. An address of the cluster that nothing has is reached in plaintext only while
/// what is known of the cluster is current, and never in a range that the MeshConfig declares.
pub fn outbound(
    policies: &Policies,
    mesh: &MeshSettings,
    target: &Target<'_>,
    complete: bool,
) -> Decision<OutboundPermit> {
    let plain = || Ok(OutboundPermit::Plain(PlainPermit(())));
    match target {
        Target::Meshed(request) => decide::outbound(policies, mesh, request).map(|()| {
            let expected = request.destination.identity.clone();
            OutboundPermit::Tunnel(TunnelPermit { expected })
        }),
        Target::SamePod => Decision::plain(plain()),
        _ if !complete => Decision::plain(Err(Denial::DestinationUnknown)),
        Target::OutsideMesh => Decision::plain(plain()),
        Target::Unlisted {
            address,
            range,
            is_endpoint,
            stale,
        } => Decision::plain(match (range.is_declared() && !is_endpoint, stale) {
            (false, None) => plain(),
            (_, stale) => Err(Denial::AddressUnlisted {
                address: *address,
                range: (*range).clone(),
                stale: stale.cloned(),
            }),
        }),
    }
}

impl<P> Decision<P> {
    fn plain(outcome: Result<P, Denial>) -> Self {
        Self {
            outcome,
            audited: Vec::new(),
            dry_run: Vec::new(),
        }
    }

    fn map<Q>(self, permit: impl FnOnce(P) -> Q) -> Decision<Q> {
        Decision {
            outcome: self.outcome.map(permit),
            audited: self.audited,
            dry_run: self.dry_run,
        }
    }
}
