//! What the audit found, as metrics.

use std::sync::{Arc, Weak};
use std::time::Instant;

use crate::admin::api::AuditState;
use crate::agent::audit::Auditor;
use crate::observe::{Registry, Sample};

/// Puts the audit's results into `registry`.
pub(in crate::agent) fn register(registry: &Registry, auditor: &Arc<Auditor>) {
    let of = Arc::downgrade(auditor);
    registry.gauge_at_scrape(
        "isthmus_audit_pods",
        "Pods that should be in the mesh, by what the last audit found in the kernel",
        move || states(&of),
    );
    let of = Arc::downgrade(auditor);
    registry.counter_at_scrape(
        "isthmus_audit_repairs",
        "What audits found missing and put back, by kind",
        move || repairs(&of),
    );
    let of = Arc::downgrade(auditor);
    registry.gauge_at_scrape(
        "isthmus_audit_last_run_age_seconds",
        "Seconds since the last audit ended",
        move || last(&of, |at, _| at),
    );
    let of = Arc::downgrade(auditor);
    registry.gauge_at_scrape(
        "isthmus_audit_duration_seconds",
        "How long the last audit took",
        move || last(&of, |_, took| took),
    );
}

fn states(auditor: &Weak<Auditor>) -> Vec<Sample<f64>> {
    let Some(auditor) = auditor.upgrade() else {
        return Vec::new();
    };
    let states = auditor.ledger().states();
    let sample = |state: AuditState| Sample {
        labels: vec![("state", state.as_str().to_owned())],
        value: states.get(&state).copied().unwrap_or(0) as f64,
    };
    AuditState::ALL.into_iter().map(sample).collect()
}

fn repairs(auditor: &Weak<Auditor>) -> Vec<Sample<u64>> {
    let Some(auditor) = auditor.upgrade() else {
        return Vec::new();
    };
    let ledger = auditor.ledger();
    let sample = |(what, count): (&&'static str, &u64)| Sample {
        labels: vec![("what", (*what).to_owned())],
        value: *count,
    };
    ledger.counts().iter().map(sample).collect()
}

/// One of the seconds since the last run and the seconds that it took.
fn last(auditor: &Weak<Auditor>, pick: fn(f64, f64) -> f64) -> Vec<Sample<f64>> {
    let last = auditor
        .upgrade()
        .and_then(|auditor| auditor.ledger().last());
    last.map_or_else(Vec::new, |(at, took)| {
        let age = Instant::now().saturating_duration_since(at);
        Sample::plain(pick(age.as_secs_f64(), took.as_secs_f64()))
    })
}
