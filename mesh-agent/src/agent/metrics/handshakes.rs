//! Inbound TLS handshakes as metrics: how many are under way, of how many.

use std::sync::Arc;

use crate::observe::{Registry, Sample};
use crate::proxy::Shared;

/// Puts the gauges into `registry`.
pub(in crate::agent) fn register(registry: &Registry, shared: &Arc<Shared>) {
    for (name, help, value) in [
        (
            "isthmus_handshakes",
            "TLS handshakes of tunnels to this node's pods that are under way",
            (|shared: &Shared| shared.handshakes.used()) as fn(&Shared) -> usize,
        ),
        (
            "isthmus_handshakes_limit",
            "How many of them may be under way; above that, connections are dropped for others",
            |shared: &Shared| shared.handshakes.capacity(),
        ),
    ] {
        let shared = Arc::downgrade(shared);
        registry.gauge_at_scrape(name, help, move || {
            let value = shared.upgrade().map(|shared| value(&shared) as f64);
            value.map(Sample::plain).unwrap_or_default()
        });
    }
}
