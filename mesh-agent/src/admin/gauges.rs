//! Gauges that follow from the agent's status, read at each scrape so that they cannot
//! disagree with what the command line shows.

use std::sync::{Arc, Weak};

use super::AgentView;
use super::api::{Status, WorkloadState};
use crate::observe::{Registry, Sample};

pub(super) fn register(registry: &Registry, view: &Arc<dyn AgentView>) {
    let gauge = |name, help, value: fn(&Status) -> Option<f64>| {
        let view = Arc::downgrade(view);
        registry.gauge_at_scrape(name, help, move || {
            let value = view.upgrade().and_then(|view| value(&view.status()));
            value.map(Sample::plain).unwrap_or_default()
        });
    };
    gauge(
        "isthmus_tunnels_open",
        "HBONE tunnels that are open",
        |status| Some(status.tunnels as f64),
    );
    gauge(
        "isthmus_config_problems",
        "Problems in the configuration in force",
        |status| Some(status.config.problems.len() as f64),
    );
    gauge(
        "isthmus_config_generation",
        "Grows by one with each configuration put in force",
        |status| Some(status.config.generation as f64),
    );
    gauge(
        "isthmus_svid_expiry_seconds",
        "Seconds until the first of the local certificates expires",
        |status| {
            status
                .certificates
                .iter()
                .map(|c| c.expires_in_s)
                .min()
                .map(|s| s as f64)
        },
    );
    let pods: Weak<dyn AgentView> = Arc::downgrade(view);
    registry.gauge_at_scrape(
        "isthmus_enrolled_pods",
        "Pods whose traffic the agent carries",
        move || {
            let Some(view) = pods.upgrade() else {
                return Vec::new();
            };
            let enrolled = view
                .workloads()
                .iter()
                .filter(|w| {
                    use WorkloadState::{Enrolled, PartlyCovered};
                    matches!(w.state, Enrolled | PartlyCovered)
                })
                .count();
            Sample::plain(enrolled as f64)
        },
    );
}
