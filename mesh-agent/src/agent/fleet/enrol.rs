//! Enrolling one pod: everything that can fail on the way from its description
//! to a guarded pod with a listener.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::budget::NodeBudget;
use crate::config::{Problem, check_local_pod, local_problem};
use crate::intercept::sockdiag::{self, Bypass};
use crate::intercept::{Enrolment, Interceptor, NetnsCookie};
use crate::model::{LocalPod, Workload};
use crate::netns::{Netns, NetnsThreads, prepare_current};
use crate::proxy::{Pod, PodParts};

const NETNS: &str = "isthmus.dev/netns";
const CGROUP: &str = "isthmus.dev/cgroup";

/// What enrolling needs of the agent.
pub(super) struct Enroller {
    pub(super) interceptor: Arc<Interceptor>,
    pub(super) threads: NetnsThreads,
    pub(super) pods_cgroup: PathBuf,
    pub(super) claims: Claims,
    pub(super) budget: Arc<NodeBudget>,
}

/// Why a pod was not enrolled.
pub(super) struct Refused {
    pub(super) problems: Vec<Problem>,
}

/// Which pod has which network namespace: two paths may lead to one, and two pods
/// in one could not be told apart.
#[derive(Default)]
pub(super) struct Claims(Mutex<HashMap<NetnsCookie, Arc<str>>>);

impl Claims {
    /// Gives the namespace to the pod, unless another has it: that one's uid.
    fn claim(&self, netns: NetnsCookie, uid: &Arc<str>) -> Result<(), Arc<str>> {
        let mut claims = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = claims.entry(netns).or_insert_with(|| Arc::clone(uid));
        if owner == uid {
            Ok(())
        } else {
            Err(Arc::clone(owner))
        }
    }

    /// The pod no longer has the namespace.
    pub(super) fn give_up(&self, netns: NetnsCookie, uid: &str) {
        let mut claims = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if claims.get(&netns).is_some_and(|owner| **owner == *uid) {
            claims.remove(&netns);
        }
    }
}

impl Enroller {
    /// Enrols `workload`, whose `local` must be set: when this returns, no
    /// connection of the pod goes around the agent any more.
    pub(super) async fn enrol(
        &self,
        workload: Arc<Workload>,
        strict: bool,
    ) -> Result<Arc<Pod>, Refused> {
        let refused = |problems| Refused { problems };
        let found = check_local_pod(&workload, &self.pods_cgroup);
        if !found.is_empty() {
            return Err(refused(found));
        }
        let Some(local) = workload.local.clone() else {
            return Err(refused(found));
        };
        let netns = Netns::open(&local.netns, &self.threads.open)
            .await
            .map_err(|error| refused(vec![problem(&workload, NETNS, &error)]))?;
        if let Err(owner) = self.claims.claim(netns.cookie(), &workload.uid) {
            let same = format!("leads to the network namespace of Pod {owner}");
            return Err(refused(vec![problem(&workload, NETNS, &same)]));
        }
        let cookie = netns.cookie();
        let enrolled = self.enrol_in(&workload, &local, netns, strict).await;
        if enrolled.is_err() {
            self.claims.give_up(cookie, &workload.uid);
        }
        enrolled.map_err(refused)
    }

    /// The rest of [`Enroller::enrol`], once the namespace is the pod's.
    async fn enrol_in(
        &self,
        workload: &Arc<Workload>,
        local: &LocalPod,
        netns: Netns,
        strict: bool,
    ) -> Result<Arc<Pod>, Vec<Problem>> {
        let netns_problem = |error: io::Error| vec![problem(workload, NETNS, &error)];
        let prepared = self.threads.open.run(netns.as_fd(), prepare_current).await;
        let prepared = prepared.map_err(io::Error::from).and_then(|done| done);
        let prepared = prepared.map_err(netns_problem)?;
        if let Err(message) = &prepared.tw_reuse {
            tracing::warn!(pod = %workload.uid, "{message}: many short connections may fail");
        }
        let port = prepared
            .listener
            .local_addr()
            .map_err(netns_problem)?
            .port();
        self.interceptor
            .enrol(&Enrolment {
                netns: netns.as_fd(),
                netns_cookie: netns.cookie(),
                cgroup: &local.cgroup,
                addresses: &workload.addresses,
                listener: prepared.listener.as_fd(),
                port,
                strict,
            })
            .map_err(|error| vec![problem(workload, CGROUP, &error)])?;
        let (netns, listener) = (Arc::new(netns), prepared.listener);
        let parts = PodParts {
            workload: Arc::clone(workload),
            netns,
            listener,
            port,
            budget: self.budget.pod(),
        };
        Ok(Pod::new(parts, self.threads.open.clone()))
    }

    /// Resets what the pod holds open in plaintext, probes apart, and says what it was.
    pub(super) async fn reset_plaintext(&self, pod: &Pod) -> io::Result<Vec<Bypass>> {
        let workload = pod.workload();
        let Some(local) = workload.local.clone() else {
            return Ok(Vec::new());
        };
        let addresses = workload.addresses.clone();
        let kernel = Arc::clone(&self.interceptor);
        let reset = move || {
            let probe = |it: &Bypass| kernel.is_probe(it.remote, it.local);
            sockdiag::destroy_unless(&local.cgroup, &addresses, probe)
        };
        let sockets = &self.threads.sockets;
        sockets.run(pod.netns().as_fd(), reset).await?
    }
}

fn problem(workload: &Workload, annotation: &str, error: &dyn std::fmt::Display) -> Problem {
    let what = match annotation {
        CGROUP => "cgroup",
        _ => "network namespace",
    };
    let message = match workload.origin.is_of_api() {
        true => format!("its {what}: {error}"),
        false => error.to_string(),
    };
    let cure = "see the message; the pod is tried again until it works";
    local_problem(workload, annotation, message, cure)
}
