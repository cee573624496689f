//! The pods of this node that are in the mesh: enrolling, releasing, and looking
//! after them. One task at a time changes the fleet; anyone may read it.

mod certify;
mod enrol;
mod leave;
mod leftovers;
mod mode;
mod orphans;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Options;
use super::authority::Identities;
use super::plan::{Plan, plan};
use super::statuses::Facts;
use crate::config::inotify::Events;
use crate::config::{Loaded, PolicyVersion, Problem};
use crate::intercept::{self, KubeletError, NetnsCookie};
use crate::model::{Severity, Workload, World};
use crate::netns::NetnsThreads;
use crate::proxy::{self, Pod, Shared, Workers};

use enrol::{Claims, Enroller, Refused};
pub(super) use mode::is_strict;
pub(super) use orphans::{Orphan, STATE as ORPHANED};

/// Pods that are enrolled at the same time.
const AT_ONCE: usize = 16;

/// The node's enrolled pods and what stands in the way of the others.
pub(super) struct Fleet {
    shared: Arc<Shared>,
    workers: Workers,
    enroller: Arc<Enroller>,
    identities: Arc<Identities>,
    state: Mutex<State>,
    news: watch::Sender<u64>,
    /// This node's name.
    node: Box<str>,
    /// Of the orphans' cgroups; `None` where the kernel has no inotify instance left.
    events: Option<Events>,
}

#[derive(Default)]
struct State {
    enrolled: HashMap<Arc<str>, Arc<Pod>>,
    /// Pods that should be enrolled and could not be, with the reasons.
    pending: HashMap<Arc<str>, Refused>,
    /// Pods whose object is gone and whose processes are not.
    orphans: BTreeMap<NetnsCookie, Orphan>,
    /// Faults of the configuration in force.
    problems: Vec<Problem>,
    /// The policies that it is made of.
    policies: Arc<[PolicyVersion]>,
    /// Connections that enrolment under STRICT reset.
    reset: u64,
}

impl Fleet {
    pub(super) fn new(
        shared: Arc<Shared>,
        workers: Workers,
        threads: NetnsThreads,
        identities: Arc<Identities>,
        options: &Options,
    ) -> Self {
        let enroller = Enroller {
            interceptor: Arc::clone(&shared.interceptor),
            threads,
            pods_cgroup: options.pods_cgroup.clone(),
            claims: Claims::default(),
            budget: Arc::clone(&shared.budget),
        };
        let (enroller, state) = (Arc::new(enroller), Mutex::default());
        Self {
            shared,
            workers,
            enroller,
            identities,
            state,
            news: watch::Sender::new(0),
            node: options.node.as_str().into(),
            events: Events::new()
                .inspect_err(|error| tracing::warn!(%error, "orphans are looked after by polling"))
                .ok(),
        }
    }

    /// Wakes when a configuration came in force, or a pod was enrolled or could not be.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Wakes those who wait for the fleet's news.
    pub(super) fn tell(&self) {
        self.news
            .send_modify(|number| *number = number.wrapping_add(1));
    }

    /// Puts a configuration in force and brings the node in line with it.
    pub(super) async fn apply(&self, loaded: Loaded) {
        let Loaded {
            world,
            problems,
            complete,
            all_found,
            policies,
        } = loaded;
        // Each change brings all of them again: only what is new is news.
        let known = self.lock().problems.clone();
        for problem in problems.iter().filter(|it| !known.contains(it)) {
            tracing::warn!(target: "config", %problem, "configuration");
        }
        // Who is trusted goes before who is let in.
        self.identities.configure(&world);
        let before = self.shared.generation.load_full();
        let generation = before.next(Arc::clone(&world), complete);
        let number = generation.number;
        self.shared.generation.store(Arc::new(generation));
        {
            let mut state = self.lock();
            state.problems = problems;
            state.policies = policies;
        }
        self.tell();
        self.change_mode(&before.world, &world).await;
        let cut = proxy::judge_policies(&self.shared);
        let Plan {
            release,
            orphan,
            describe,
            enrol,
        } = plan(&self.workloads(), &world);
        let counts = (enrol.len(), release.len(), describe.len(), orphan.len());
        for uid in release {
            self.release(&uid, false).await;
        }
        for uid in orphan {
            self.orphan(&uid).await;
        }
        for workload in describe {
            if let Some(pod) = self.pod(&workload.uid) {
                pod.describe(workload);
            }
        }
        self.lock()
            .pending
            .retain(|uid, _| enrol.iter().any(|workload| workload.uid == *uid));
        self.release_dead();
        self.enrol(enrol, &world).await;
        self.adopt_leftovers(&world, all_found);
        self.tell();
        let (enrolled, released, described, orphaned) = counts;
        tracing::info!(
            generation = number,
            complete,
            enrolled,
            released,
            described,
            orphaned,
            connections_cut = cut,
            "configuration in force"
        );
    }

    /// Enrols what could not be before, and lets go of pods of which nothing runs any more.
    pub(super) async fn look_after(&self) {
        let world = Arc::clone(&self.shared.generation.load().world);
        self.look_after_orphans();
        for (uid, pod) in self.pods() {
            let workload = pod.workload();
            let Some(local) = &workload.local else {
                continue;
            };
            // A path that is gone says nothing of the namespace: its processes may hold it.
            match pod.netns().is_at(&local.netns) {
                true => {}
                false if local.netns.exists() => self.leave_other_namespace(&workload).await,
                false if self.runs(&pod) => {}
                false => {
                    tracing::info!(pod = %uid, "the pod's network namespace went away");
                    self.release(&uid, true).await;
                }
            }
        }
        let missing = plan(&self.workloads(), &world).enrol;
        if !missing.is_empty() {
            self.enrol(missing, &world).await;
        }
    }

    /// Whether processes are in the pod's cgroup. True while that is not known.
    fn runs(&self, pod: &Pod) -> bool {
        let workload = pod.workload();
        let Some(local) = &workload.local else {
            return false;
        };
        let id = self.shared.interceptor.cgroup_of(pod.netns().cookie());
        id.is_none_or(|id| intercept::is_populated(&local.cgroup, id) != Some(false))
    }

    /// Whether another agent enrols and releases this node's pods from now on.
    pub(super) fn is_superseded(&self) -> bool {
        match self.shared.interceptor.is_superseded() {
            Ok(superseded) => superseded,
            Err(error) => {
                tracing::error!(%error, "cannot tell whether another agent took over");
                false
            }
        }
    }

    /// Has every pod give back what it holds for speed and does not use.
    pub(super) fn relax(&self) {
        self.pods().iter().for_each(|(_, pod)| pod.relax());
    }

    /// The enrolled pods, by uid.
    pub(super) fn pods(&self) -> Vec<(Arc<str>, Arc<Pod>)> {
        let state = self.lock();
        state
            .enrolled
            .iter()
            .map(|(uid, pod)| (Arc::clone(uid), Arc::clone(pod)))
            .collect()
    }

    /// What keeps a pod out of the mesh.
    pub(super) fn pending(&self, uid: &str) -> Vec<Problem> {
        let state = self.lock();
        let refused = state.pending.get(uid);
        refused.map_or_else(Vec::new, |refused| refused.problems.clone())
    }

    /// Every fault that stands now: the configuration's, then the pods'.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let state = self.lock();
        let mut pending: Vec<_> = state.pending.iter().collect();
        pending.sort_by_key(|(uid, _)| Arc::clone(uid));
        let pending = pending
            .into_iter()
            .flat_map(|(_, refused)| &refused.problems);
        let probes = self.shared.interceptor.kubelet_error().map(without_probes);
        let all = state.problems.iter().chain(pending).cloned();
        let orphans = state.orphans.values().map(Orphan::problem);
        all.chain(orphans).chain(probes).collect()
    }

    /// What is true of the pods and the configuration, for the writer of statuses.
    pub(super) fn with_facts<T>(&self, node: &str, told: impl FnOnce(&Facts<'_>) -> T) -> T {
        let world = Arc::clone(&self.shared.generation.load().world);
        let state = self.lock();
        let pending = state.pending.iter();
        told(&Facts {
            node,
            world: &world,
            policies: &state.policies,
            problems: &state.problems,
            enrolled: state.enrolled.keys().map(|uid| &**uid).collect(),
            pending: pending
                .map(|(uid, refused)| (&**uid, refused.problems.as_slice()))
                .collect(),
        })
    }

    /// Connections that enrolment under STRICT reset, since the start.
    pub(super) fn plaintext_reset(&self) -> u64 {
        self.lock().reset
    }

    /// Open tunnels to other nodes; blocks for a moment.
    pub(super) fn tunnels(&self) -> usize {
        self.workers.tunnels()
    }

    /// Cuts the connections whose peers are no longer trusted.
    pub(super) async fn judge(&self) {
        let cut = proxy::judge(&self.shared, &self.workers).await;
        let number = self.shared.trust.current().number();
        tracing::info!(trust = number, connections_cut = cut, "trust in force");
    }

    /// Has peers open new tunnels, under the TLS settings in force.
    pub(super) fn ask_for_new_handshakes(&self) {
        tracing::info!("TLS settings in force");
        self.shared.ask_for_new_handshakes();
    }

    /// Closes the tunnels to other nodes, each after its last stream.
    pub(super) async fn close_tunnels(&self) {
        self.workers.close_tunnels(&self.shared).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The enrolled pod with this uid.
    pub(super) fn pod(&self, uid: &str) -> Option<Arc<Pod>> {
        self.lock().enrolled.get(uid).cloned()
    }

    fn workloads(&self) -> HashMap<Arc<str>, Arc<Workload>> {
        self.pods()
            .into_iter()
            .map(|(uid, pod)| (uid, pod.workload()))
            .collect()
    }

    /// Enrols these pods; one that is enrolled already, anew in its place.
    pub(super) async fn enrol(&self, workloads: Vec<Arc<Workload>>, world: &World) {
        for workload in &workloads {
            self.leave_other_namespace(workload).await;
        }
        let mut waiting = workloads.into_iter();
        let mut running = JoinSet::new();
        // Once one has no certificate in time, the others would wait as long, in vain.
        let mut waits = true;
        loop {
            while running.len() < AT_ONCE {
                let Some(workload) = waiting.next() else {
                    break;
                };
                let enroller = Arc::clone(&self.enroller);
                let strict = is_strict(world, &workload);
                running.spawn(async move {
                    let uid = Arc::clone(&workload.uid);
                    (uid, strict, enroller.enrol(workload, strict).await)
                });
            }
            match running.join_next().await {
                None => return,
                Some(Ok((uid, strict, Ok(pod)))) => {
                    waits &= self.certify(&pod, waits).await;
                    self.enrolled(uid, pod, strict).await;
                }
                Some(Ok((uid, _, Err(refused)))) => self.refused(uid, refused),
                Some(Err(error)) => tracing::error!(%error, "an enrolment ended unexpectedly"),
            }
        }
    }

    async fn enrolled(&self, uid: Arc<str>, pod: Arc<Pod>, strict: bool) {
        self.workers.listen(Arc::clone(&pod)).await;
        let before = {
            let mut state = self.lock();
            state.pending.remove(&uid);
            state.enrolled.insert(Arc::clone(&uid), Arc::clone(&pod))
        };
        self.forget_orphan(pod.netns().cookie());
        if let Some(before) = before {
            // The kernel has the new form already; the old one's connections go on.
            before.release();
            self.workers.forget(&before, false).await;
        }
        if strict {
            self.reset_plaintext(&pod).await;
        }
        self.tell();
        tracing::info!(pod = %uid, identity = %pod.workload().identity, port = pod.port(),
            "enrolled");
    }

    fn refused(&self, uid: Arc<str>, refused: Refused) {
        let mut state = self.lock();
        let known = state.pending.get(&uid).map(|known| &known.problems);
        if known != Some(&refused.problems) {
            for problem in &refused.problems {
                tracing::warn!(target: "config", pod = %uid, %problem, "not enrolled");
            }
        }
        state.pending.insert(uid, refused);
        drop(state);
        self.tell();
    }
}

/// Why the kubelet's probes do not reach the pods.
fn without_probes(error: KubeletError) -> Problem {
    Problem {
        file: PathBuf::from("mesh-agent run"),
        object: None,
        field: "--kubelet-cgroup".to_owned(),
        message: "no probe of the kubelet reaches a STRICT pod".to_owned(),
        cure: error.to_string(),
        severity: Severity::Error,
    }
}
