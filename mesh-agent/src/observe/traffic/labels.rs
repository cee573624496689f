//! The label sets of Istio's TCP metrics, in Istio's words. Used by the traffic counters.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::observe::labels::{Direction, PodLabels, Security};
use crate::observe::live::{Details, LiveConnection};
use crate::observe::reason::ResponseFlag;

/// What a label set is made of, and what makes two of them equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Labels {
    direction: Direction,
    pod: Option<Named>,
    peer: Option<Named>,
    peer_identity: Option<Arc<str>>,
    service: Option<Arc<str>>,
    policy: &'static str,
}

impl Labels {
    pub(super) fn of(connection: &LiveConnection, details: &Details) -> Self {
        Self {
            direction: connection.direction(),
            pod: Some(Named(Arc::clone(connection.pod()))),
            peer: details.peer.clone().map(Named),
            peer_identity: details.peer_identity.clone(),
            service: details.service.clone(),
            policy: details.security.map_or(UNKNOWN, Security::policy),
        }
    }

    pub(super) fn nameless(self) -> Self {
        Self {
            pod: None,
            peer: None,
            peer_identity: None,
            service: None,
            ..self
        }
    }

    pub(super) fn to_pairs(&self, flag: ResponseFlag) -> [(&'static str, &str); 15] {
        let own = End::of(self.pod.as_ref());
        let own = End {
            principal: self.pod.as_ref().map_or(UNKNOWN, |pod| &pod.0.identity),
            ..own
        };
        let peer = End::of(self.peer.as_ref());
        let peer = End {
            principal: self.peer_identity.as_deref().unwrap_or(UNKNOWN),
            ..peer
        };
        let (source, destination) = match self.direction {
            Direction::Outbound => (own, peer),
            Direction::Inbound => (peer, own),
        };
        [
            ("reporter", self.direction.reporter()),
            ("source_workload", source.workload),
            ("source_workload_namespace", source.namespace),
            ("source_principal", source.principal),
            ("source_app", source.app),
            ("source_version", source.version),
            ("destination_workload", destination.workload),
            ("destination_workload_namespace", destination.namespace),
            ("destination_principal", destination.principal),
            ("destination_app", destination.app),
            ("destination_version", destination.version),
            (
                "destination_service",
                self.service.as_deref().unwrap_or(UNKNOWN),
            ),
            ("request_protocol", "tcp"),
            ("response_flags", flag.as_str()),
            ("connection_security_policy", self.policy),
        ]
    }
}

/// Istio's word for a label that has no value.
const UNKNOWN: &str = "unknown";

/// The labels of one end.
struct End<'a> {
    workload: &'a str,
    namespace: &'a str,
    principal: &'a str,
    app: &'a str,
    version: &'a str,
}

impl<'a> End<'a> {
    fn of(pod: Option<&'a Named>) -> Self {
        let label = |value: fn(&PodLabels) -> Option<&str>| {
            pod.and_then(|pod| value(&pod.0)).unwrap_or(UNKNOWN)
        };
        Self {
            workload: label(|pod| Some(&pod.workload)),
            namespace: label(|pod| Some(&pod.namespace)),
            principal: UNKNOWN,
            app: label(|pod| pod.app.as_deref()),
            version: label(|pod| pod.version.as_deref()),
        }
    }
}

/// A pod by what the metrics say of it: without its own name, so that all pods of one
/// Deployment are equal here.
#[derive(Clone, Debug)]
struct Named(Arc<PodLabels>);

impl Named {
    fn emitted(&self) -> (&str, &str, &str, Option<&str>, Option<&str>) {
        let pod = &self.0;
        (
            &pod.workload,
            &pod.namespace,
            &pod.identity,
            pod.app.as_deref(),
            pod.version.as_deref(),
        )
    }
}

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.emitted() == other.emitted()
    }
}

impl Eq for Named {}

impl Hash for Named {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.emitted().hash(state);
    }
}
