//! What the kernel programs tell of, drops and refused calls, in the agent's log.

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::intercept::{Interceptor, KernelEvent, KernelEvents};

/// Logs the kernel's events until the returned set is dropped.
pub(super) fn watch(interceptor: &Arc<Interceptor>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let Some(events) = interceptor.events() else {
        return tasks;
    };
    match KernelEvents::new(events) {
        Ok(events) => {
            tasks.spawn(log_all(events));
        }
        Err(error) => tracing::error!(%error, "the kernel's events cannot be read"),
    }
    tasks
}

async fn log_all(mut events: KernelEvents) {
    loop {
        match events.next().await {
            Ok(event) => log(&event),
            Err(error) => return tracing::error!(%error, "the kernel's events ended"),
        }
    }
}

fn log(event: &KernelEvent) {
    let KernelEvent {
        kind,
        netns,
        cgroup_id,
        local,
        remote,
        ..
    } = event;
    let local = local.map(|local| local.to_string());
    tracing::warn!(target: "kernel", kind = kind.name(), netns = netns.0, cgroup = cgroup_id,
        local, %remote, "the kernel programs refused or dropped");
}
