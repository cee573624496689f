//! One flow out of what several agents, or one at several times, recorded of it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::observe::{Flow, Reporter};

/// A flow as all who recorded it saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Merged {
    pub(super) source_identity: Option<String>,
    pub(super) source_ip: Option<IpAddr>,
    pub(super) destination: String,
    pub(super) port: u16,
    /// The verdict that was given last; of two in one second the leave, so that
    /// what may be lost is not passed over.
    pub(super) allowed: bool,
    pub(super) reason: Option<String>,
    pub(super) count: u64,
    last_seen_s: u64,
    by_source: u64,
    by_destination: u64,
}

type Key<'a> = (&'a str, u16, Option<&'a str>, Option<IpAddr>);

/// Sorted by destination, port and source.
pub(super) fn merge(flows: &[Flow]) -> Vec<Merged> {
    let mut all: BTreeMap<Key<'_>, Merged> = BTreeMap::new();
    for flow in flows {
        let identity = flow.source_identity.as_deref();
        let key = (&*flow.destination, flow.port, identity, flow.source_ip);
        let merged = all.entry(key).or_insert_with(|| Merged {
            source_identity: flow.source_identity.clone(),
            source_ip: flow.source_ip,
            destination: flow.destination.clone(),
            port: flow.port,
            allowed: flow.allowed,
            reason: flow.reason.clone(),
            count: 0,
            last_seen_s: flow.last_seen_s,
            by_source: 0,
            by_destination: 0,
        });
        merged.add(flow);
    }
    all.into_values().collect()
}

impl Merged {
    fn add(&mut self, flow: &Flow) {
        let now = (flow.last_seen_s, flow.allowed);
        if now > (self.last_seen_s, self.allowed) {
            self.last_seen_s = flow.last_seen_s;
            self.allowed = flow.allowed;
            self.reason.clone_from(&flow.reason);
        }
        let seen = match flow.reporter {
            Reporter::Source => &mut self.by_source,
            Reporter::Destination => &mut self.by_destination,
        };
        *seen = seen.saturating_add(flow.count);
        // Both ends count the connections that both see.
        self.count = self.by_source.max(self.by_destination);
    }
}
