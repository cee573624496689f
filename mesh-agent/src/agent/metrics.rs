//! What the kernel programs and the enrolment count, as metrics.

use std::sync::Arc;

use mesh_common::counters::Counter;

pub(super) mod audit;
mod budget;
pub(super) mod handshakes;
mod identity;

use super::authority::Identities;
use super::fleet::Fleet;
use crate::budget::NodeBudget;
use crate::intercept::{Fill, Interceptor};
use crate::observe::{Registry, Sample};

/// The guard's counters, with the values of the metric's labels.
const GUARD: [(Counter, &str, &str); 6] = [
    (Counter::IngressNewConnection, "ingress", "new_connection"),
    (Counter::IngressStrict, "ingress", "strict"),
    (Counter::IngressUnreadable, "ingress", "unreadable"),
    (Counter::EgressNewConnection, "egress", "new_connection"),
    (Counter::EgressStrict, "egress", "strict"),
    (Counter::EgressUnreadable, "egress", "unreadable"),
];

/// Puts the kernel's counters into `registry`; they are read at each scrape.
pub(super) fn register(
    registry: &Registry,
    interceptor: &Arc<Interceptor>,
    fleet: &Arc<Fleet>,
    identities: &Arc<Identities>,
    node: &Arc<NodeBudget>,
) {
    identity::register(registry, identities);
    budget::register(registry, node, fleet);
    let kernel = Arc::downgrade(interceptor);
    let counters = move || kernel.upgrade().and_then(|kernel| kernel.counters().ok());
    let guard = counters.clone();
    registry.counter_at_scrape(
        "isthmus_guard_dropped_packets",
        "Packets of enrolled pods that the guard dropped, since they went around the agent",
        move || {
            let Some(counters) = guard() else {
                return Vec::new();
            };
            let sample = |(counter, direction, reason): (Counter, &str, &str)| Sample {
                labels: vec![
                    ("direction", direction.to_owned()),
                    ("reason", reason.to_owned()),
                ],
                value: counters.get(counter),
            };
            GUARD.into_iter().map(sample).collect()
        },
    );
    registry.counter_at_scrape(
        "isthmus_kernel_events",
        "What the kernel programs did, by their counters' names",
        move || {
            let Some(counters) = counters() else {
                return Vec::new();
            };
            let others = counters
                .iter()
                .filter(|(c, _)| !GUARD.iter().any(|(g, ..)| g == c));
            let sample = |(counter, value): (Counter, u64)| Sample {
                labels: vec![("event", counter.name().to_owned())],
                value,
            };
            others.map(sample).collect()
        },
    );
    let gauge = |name, help, value: fn(&Fill) -> usize| {
        let kernel = Arc::downgrade(interceptor);
        registry.gauge_at_scrape(name, help, move || {
            let filled = kernel.upgrade().and_then(|kernel| kernel.handshakes().ok());
            let sample = |fill: Fill| Sample {
                labels: vec![("map", fill.map.to_owned())],
                value: value(&fill) as f64,
            };
            filled.into_iter().flatten().map(sample).collect()
        });
    };
    gauge(
        "isthmus_kernel_map_entries",
        "Connections under way that the kernel programs keep in a map",
        |fill| fill.entries,
    );
    gauge(
        "isthmus_kernel_map_capacity",
        "Connections under way that fit into a map of the kernel programs",
        |fill| fill.capacity,
    );
    let fleet = Arc::downgrade(fleet);
    registry.counter_at_scrape(
        "isthmus_plaintext_connections_reset",
        "Plaintext connections older than their pod's STRICT mode that were reset",
        move || {
            let reset = fleet.upgrade().map(|fleet| fleet.plaintext_reset());
            reset.map(Sample::plain).unwrap_or_default()
        },
    );
}
