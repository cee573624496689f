//! What a new configuration asks of the node, against what is there: pure.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::{Workload, World};

/// What is to be done, in this order.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Enrolled pods that are to leave, by uid.
    pub(super) release: Vec<Arc<str>>,
    /// Enrolled pods of which only the description changed.
    pub(super) describe: Vec<Arc<Workload>>,
    /// Pods to enrol.
    pub(super) enrol: Vec<Arc<Workload>>,
}

/// Compares the `enrolled` pods with those that `world` wants enrolled here.
pub(super) fn plan(enrolled: &HashMap<Arc<str>, Arc<Workload>>, world: &World) -> Plan {
    let mut plan = Plan::default();
    for (uid, workload) in enrolled {
        let wanted = world.workload(uid).filter(|wanted| wanted.local.is_some());
        if !wanted.is_some_and(|wanted| same_pod(wanted, workload)) {
            plan.release.push(Arc::clone(uid));
        }
    }
    plan.release.sort();
    for wanted in world
        .workloads()
        .filter(|workload| workload.local.is_some())
    {
        match enrolled.get(&wanted.uid) {
            Some(workload) if same_pod(wanted, workload) => {
                if wanted != workload {
                    plan.describe.push(Arc::clone(wanted));
                }
            }
            _ => plan.enrol.push(Arc::clone(wanted)),
        }
    }
    plan
}

/// Whether the two describe one pod, enrolled in one way; labels may differ.
fn same_pod(one: &Workload, other: &Workload) -> bool {
    one.local == other.local && one.identity == other.identity && one.addresses == other.addresses
}
