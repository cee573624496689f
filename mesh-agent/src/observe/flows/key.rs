//! What makes two connections one flow.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Flow, Reporter};
use crate::addr::canonical_ip;
use crate::observe::labels::{Direction, PodLabels};
use crate::observe::live::{Details, LiveConnection};
use crate::observe::reason::{Outcome, Reason};

/// A flow without its counts. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) reporter: Reporter,
    pub(super) source: Source,
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) port: u16,
    /// `None` where it was let in.
    pub(super) refused: Option<Reason>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    Identity(Arc<str>),
    Address(IpAddr),
}

impl Key {
    /// `None` for what policy was not asked about: it never came that far, or it goes
    /// to no workload in the mesh.
    pub(super) fn of(
        connection: &LiveConnection,
        details: &Details,
        outcome: Outcome,
    ) -> Option<Self> {
        let ruling = details.ruling.as_ref()?;
        let denied = ruling.denial.as_ref().map(|denial| denial.reason());
        let elsewhere = outcome.reason();
        let elsewhere = elsewhere.filter(|reason| *reason == Reason::UpstreamDenied);
        let refused = denied.or(elsewhere);
        let to = |pod: &PodLabels| (Arc::clone(&pod.namespace), Arc::clone(&pod.name));
        let own = connection.pod();
        Some(match connection.direction() {
            Direction::Outbound => {
                let (namespace, name) = to(details.peer.as_ref()?);
                Self {
                    reporter: Reporter::Source,
                    source: Source::Identity(Arc::clone(&own.identity)),
                    namespace,
                    name,
                    port: details.upstream?.port(),
                    refused,
                }
            }
            Direction::Inbound => {
                let (namespace, name) = to(own);
                let identity = details.peer_identity.clone();
                let address = || Source::Address(canonical_ip(connection.source().ip()));
                Self {
                    reporter: Reporter::Destination,
                    source: identity.map_or_else(address, Source::Identity),
                    namespace,
                    name,
                    port: connection.destination().port(),
                    refused,
                }
            }
        })
    }

    pub(super) fn is_anonymous(&self) -> bool {
        matches!(self.source, Source::Address(_))
    }

    pub(super) fn flow(&self, count: u64, last_seen_s: u64) -> Flow {
        let (identity, ip) = match &self.source {
            Source::Identity(identity) => (Some(identity.to_string()), None),
            Source::Address(ip) => (None, Some(*ip)),
        };
        Flow {
            reporter: self.reporter,
            source_identity: identity,
            source_ip: ip,
            destination: format!("{}/{}", self.namespace, self.name),
            port: self.port,
            allowed: self.refused.is_none(),
            reason: self.refused.map(|reason| reason.code().to_owned()),
            count,
            last_seen_s,
        }
    }
}
