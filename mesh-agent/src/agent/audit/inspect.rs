//! One pod against the kernel. Shared by the audit and by `workloads`.

use std::os::fd::AsFd;

use crate::intercept::{Enrolment, Fault, Interceptor};
use crate::proxy::Pod;

/// One thing that an audit found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::agent) struct Finding {
    /// Of what kind, in a few fixed words for metrics.
    pub(in crate::agent) what: &'static str,
    /// In one sentence.
    pub(in crate::agent) detail: String,
}

impl Finding {
    pub(super) fn new(what: &'static str, detail: String) -> Self {
        Self { what, detail }
    }
}

impl From<&Fault> for Finding {
    fn from(fault: &Fault) -> Self {
        Self::new(fault.what(), fault.to_string())
    }
}

/// What of an enrolled pod's hold in the kernel is not as the agent made it; an error when
/// that cannot be found out.
pub(in crate::agent) fn pod_faults(
    kernel: &Interceptor,
    pod: &Pod,
    strict: bool,
) -> Result<Vec<Fault>, String> {
    match enrolment(pod, strict, |wanted| kernel.pod_faults(wanted)) {
        Some(faults) => faults.map_err(|error| error.to_string()),
        None => Ok(vec![Fault::NotAccepting]),
    }
}

/// Hands `with` what the pod was enrolled with; `None` when its listener is closed.
pub(super) fn enrolment<T>(
    pod: &Pod,
    strict: bool,
    with: impl FnOnce(&Enrolment<'_>) -> T,
) -> Option<T> {
    let workload = pod.workload();
    let local = workload.local.as_ref()?;
    let listener = pod.listener()?;
    Some(with(&Enrolment {
        netns: pod.netns().as_fd(),
        netns_cookie: pod.netns().cookie(),
        cgroup: &local.cgroup,
        addresses: &workload.addresses,
        listener: listener.as_fd(),
        port: pod.port(),
        strict,
    }))
}
