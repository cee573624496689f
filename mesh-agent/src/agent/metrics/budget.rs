//! What the node's pods hold of the agent's descriptors and memory, as metrics: before a limit
//! is reached, not after.

use std::sync::Arc;

use crate::agent::fleet::Fleet;
use crate::budget::{NodeBudget, PodBudget, Usage};
use crate::observe::{Registry, Sample};

/// Puts the budgets into `registry`; they are read at each scrape.
pub(super) fn register(registry: &Registry, budget: &Arc<NodeBudget>, fleet: &Arc<Fleet>) {
    let node = |name, help, value: fn(&NodeBudget) -> u64| {
        let budget = Arc::clone(budget);
        registry.gauge_at_scrape(name, help, move || Sample::plain(value(&budget) as f64));
    };
    node(
        "isthmus_node_descriptors",
        "File descriptors that the agent holds for the node's pods",
        |budget| budget.descriptors().used,
    );
    node(
        "isthmus_node_descriptors_limit",
        "File descriptors that the agent may hold for the node's pods together",
        |budget| budget.descriptors().limit,
    );
    node(
        "isthmus_node_buffered_bytes",
        "Bytes that the agent holds for readers of the node's pods",
        |budget| budget.buffered_bytes().used,
    );
    node(
        "isthmus_node_buffered_bytes_limit",
        "Bytes that the agent may hold for readers of the node's pods together",
        |budget| budget.buffered_bytes().limit,
    );
    let pods = |name, help, value: fn(&PodBudget) -> Usage, part: fn(Usage) -> u64| {
        let fleet = Arc::downgrade(fleet);
        registry.named_gauge_at_scrape(name, help, move || {
            let pods = fleet.upgrade().map(|fleet| fleet.pods());
            let sample = |(_, pod): (_, Arc<crate::proxy::Pod>)| {
                let labels = pod.labels();
                Sample {
                    labels: vec![
                        ("namespace", labels.namespace.to_string()),
                        ("pod", labels.name.to_string()),
                    ],
                    value: part(value(pod.budget())) as f64,
                }
            };
            pods.unwrap_or_default().into_iter().map(sample).collect()
        });
    };
    pods(
        "isthmus_pod_descriptors",
        "File descriptors that the agent holds for the pod",
        PodBudget::descriptors,
        |usage| usage.used,
    );
    pods(
        "isthmus_pod_descriptors_limit",
        "File descriptors that the agent may hold for the pod",
        PodBudget::descriptors,
        |usage| usage.limit,
    );
    pods(
        "isthmus_pod_buffered_bytes",
        "Bytes that the agent holds for readers of the pod's connections",
        PodBudget::buffered_bytes,
        |usage| usage.used,
    );
    pods(
        "isthmus_pod_buffered_bytes_limit",
        "Bytes that the agent may hold for readers of the pod's connections",
        PodBudget::buffered_bytes,
        |usage| usage.limit,
    );
}
