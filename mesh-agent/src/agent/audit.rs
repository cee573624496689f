//! Enforcement truth: compares what is meant for each pod with what the kernel has, puts
//! back what is missing, and keeps a record. The agent's main loop runs it between changes
//! of the configuration, never during one, so that it sees no half-made state; the command
//! line asks for a run through [`requests`].
//!
//! Every [`EVERY`]: what captures (connect, `sk_lookup`) and what guards (`cgroup_skb`) are
//! separate programs with separate maps, so that whichever one is taken away, the other
//! refuses meanwhile. A second loss within the same two seconds is what the interval has to
//! be short for; a run costs some thirty system calls a pod.

mod forwarded;
mod inspect;
mod ledger;
mod orphans;
mod probe;
mod sockets;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::fleet::{Fleet, is_strict};
use crate::admin::api::{AuditReport, AuditState};
use crate::intercept::{Fault, Interceptor, Repairs};
use crate::model::{Workload, World};
use crate::netns::NetnsThread;
use crate::proxy::{Pod, Shared};

pub(super) use forwarded::partly_covered;
pub(super) use inspect::{Finding, pod_faults};
use ledger::{Examined, Ledger, Run};
use sockets::Sockets;

/// How often everything is looked at, but the sockets of each pod, see [`sockets`].
pub(super) const EVERY: Duration = Duration::from_secs(2);

/// Runs that may wait; each answers everything that was asked before it began.
const QUEUE: usize = 16;

/// Pods that are probed at a time, each by a process of its own.
const PROBES_AT_ONCE: usize = 8;

/// Whom a run's report goes to.
pub(super) type Answer = oneshot::Sender<AuditReport>;

/// Asks the main loop for a run.
pub(super) fn requests() -> (mpsc::Sender<Answer>, mpsc::Receiver<Answer>) {
    mpsc::channel(QUEUE)
}

/// Which pods' sockets a run looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Some, in turn.
    InTurn,
    /// All.
    All,
}

/// Looks at the node's pods in the kernel, again and again.
pub(super) struct Auditor {
    node: String,
    fleet: Arc<Fleet>,
    shared: Arc<Shared>,
    /// Not the one that opens sockets for connections, which would wait for a listing.
    thread: NetnsThread,
    sockets: Sockets,
    /// Pods of the API that the last run missed. One that comes has its first moments
    /// before the container runtime has made it: nothing of it runs yet.
    missed: Mutex<HashSet<Arc<str>>>,
    ledger: Mutex<Ledger>,
}

impl Auditor {
    pub(super) fn new(
        node: &str,
        fleet: &Arc<Fleet>,
        shared: &Arc<Shared>,
        thread: NetnsThread,
    ) -> Arc<Self> {
        Arc::new(Self {
            node: node.to_owned(),
            fleet: Arc::clone(fleet),
            shared: Arc::clone(shared),
            sockets: Sockets::default(),
            missed: Mutex::default(),
            thread,
            ledger: Mutex::default(),
        })
    }

    /// One audit of everything, with its repairs. Not to be called while the configuration
    /// is being changed.
    pub(super) async fn run(&self, scope: Scope) {
        let began = Instant::now();
        let world = Arc::clone(&self.shared.generation.load().world);
        let mut pods = self.fleet.pods();
        pods.sort_by(|(one, _), (other, _)| one.cmp(other));
        let number = self.ledger().next_run();
        let (node, mut examined) = self.kernel(&world, &pods);
        for ((uid, pod), found) in pods.iter().zip(&mut examined) {
            self.listener(uid, pod, &world, found).await;
            let due = scope == Scope::All || found.changed() || self.sockets.is_due(pod, number);
            if due {
                let kernel = &self.shared.interceptor;
                self.sockets.examine(kernel, &self.thread, pod, found).await;
            } else {
                self.sockets.repeat(pod, found);
            }
            certificate(pod, found);
            match partly_covered(&self.shared.interceptor, pod, found.strict) {
                Ok(finding) => found.beside = finding,
                Err(error) => found.unknown = found.unknown.take().or(Some(error)),
            }
        }
        self.sockets.forget_all_but(&pods);
        examined.extend(self.absent(&world));
        let run = Run {
            began,
            ended: Instant::now(),
            node,
            pods: examined,
        };
        self.ledger().record(run);
        self.orphans();
    }

    /// The report of the last run.
    pub(super) fn report(&self) -> AuditReport {
        self.ledger().report(&self.node, Instant::now())
    }

    /// Connects from inside every covered pod, and adds what came of it to the report.
    pub(super) async fn probe(&self, report: &mut AuditReport) {
        let pods: HashMap<_, _> = self.fleet.pods().into_iter().collect();
        let mut waiting = report.pods.iter().enumerate();
        let mut running = JoinSet::new();
        let mut results = Vec::new();
        loop {
            while running.len() < PROBES_AT_ONCE {
                let Some((place, audited)) = waiting.next() else {
                    break;
                };
                let uid = format!("{}/{}", audited.namespace, audited.name);
                let pod = pods.get(&*uid).filter(|_| {
                    use AuditState::{Covered, PartlyCovered};
                    matches!(audited.state, Covered | PartlyCovered)
                });
                if let Some(pod) = pod.cloned() {
                    let shared = Arc::clone(&self.shared);
                    let probe = async move { probe::probe(&shared.probes, &pod).await };
                    running.spawn(async move { (place, probe.await) });
                }
            }
            match running.join_next().await {
                None => break,
                Some(Ok(result)) => results.push(result),
                Some(Err(error)) => tracing::error!(%error, "a probe ended unexpectedly"),
            }
        }
        for (place, probes) in results {
            report.pods[place].probes = probes;
        }
    }

    /// Another agent has the pods now: this one knows nothing of them any more.
    pub(super) fn retire(&self) {
        *self.ledger() = Ledger::default();
    }

    pub(super) fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the kernel has of the node and of each pod, after the repairs.
    fn kernel(&self, world: &World, pods: &[(Arc<str>, Arc<Pod>)]) -> (Examined, Vec<Examined>) {
        let kernel = &*self.shared.interceptor;
        let mut leave = Leave::new(kernel);
        let looked = || kernel.node_faults().map_err(|error| error.to_string());
        let mend = |repairs: &Repairs<'_>, faults: &[Fault]| repairs.node(faults);
        let mut node = Examined::node();
        settle(&mut node, &mut leave, looked, mend);
        drop(leave);
        // Shown with the problems: pods are covered without probes too.
        let _known = kernel.tend_kubelet();
        if let Err(error) = kernel.sweep_handshakes() {
            tracing::warn!(%error, "entries of connections that ended stay in the kernel's maps");
        }
        let mut leave = Leave::new(kernel);
        let mut examined = Vec::with_capacity(pods.len());
        for (uid, pod) in pods {
            let workload = pod.workload();
            let strict = is_strict(world, &workload);
            let mut found = Examined::pod(&workload, strict);
            let looked = || pod_faults(kernel, pod, strict);
            let mend = |repairs: &Repairs<'_>, _: &[Fault]| {
                inspect::enrolment(pod, strict, |wanted| repairs.pod(wanted)).unwrap_or(Ok(()))
            };
            settle(&mut found, &mut leave, looked, mend);
            tracing::trace!(pod = %uid, "audited");
            examined.push(found);
        }
        (node, examined)
    }

    /// A listener that was closed cannot be put back: the pod is enrolled anew, with another.
    async fn listener(&self, uid: &Arc<str>, pod: &Pod, world: &World, found: &mut Examined) {
        if !found.lacks(&Fault::NotAccepting) || self.fleet.is_superseded() {
            return;
        }
        self.fleet.enrol(vec![pod.workload()], world).await;
        let anew = self
            .fleet
            .pods()
            .into_iter()
            .find(|(known, _)| known == uid);
        let Some((_, pod)) = anew else { return };
        let strict = is_strict(world, &pod.workload());
        found.look_again(pod_faults(&self.shared.interceptor, &pod, strict));
    }

    /// The pods that should be here and are not enrolled.
    fn absent(&self, world: &World) -> Vec<Examined> {
        let enrolled = self.fleet.pods();
        let wanted = |workload: &&Arc<Workload>| workload.meshed && *workload.node == *self.node;
        let absent =
            |workload: &&Arc<Workload>| !enrolled.iter().any(|(uid, _)| *uid == workload.uid);
        let examine = |workload: &Arc<Workload>| {
            let mut found = Examined::pod(workload, is_strict(world, workload));
            let pending = self.fleet.pending(&workload.uid);
            let reasons = pending.iter().map(ToString::to_string);
            found.standing = reasons
                .map(|text| Finding::new("enrolment", text))
                .collect();
            if found.standing.is_empty() {
                let text = "it is not enrolled; see `mesh-agent problems`";
                found
                    .standing
                    .push(Finding::new("enrolment", text.to_owned()));
            }
            found
        };
        let absent: Vec<_> = world.workloads().filter(wanted).filter(absent).collect();
        let now = absent.iter().map(|workload| Arc::clone(&workload.uid));
        let now: HashSet<_> = now.collect();
        let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *missed, now);
        let lasting = |workload: &&&Arc<Workload>| {
            workload.kube_uid.is_none() || before.contains(&workload.uid)
        };
        absent
            .iter()
            .filter(lasting)
            .map(|it| examine(it))
            .collect()
    }
}

/// Leave to repair, asked for when the first thing is to be repaired.
struct Leave<'a> {
    kernel: &'a Interceptor,
    asked: Option<Result<Repairs<'a>, String>>,
}

impl<'a> Leave<'a> {
    fn new(kernel: &'a Interceptor) -> Self {
        Self {
            kernel,
            asked: None,
        }
    }

    fn get(&mut self) -> Result<&Repairs<'a>, String> {
        let ask = || match self.kernel.repairs() {
            Ok(Some(repairs)) => Ok(repairs),
            Ok(None) => Err("another agent is taking over".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        self.asked
            .get_or_insert_with(ask)
            .as_ref()
            .map_err(Clone::clone)
    }
}

/// Looks, mends what is at fault, and looks again: only what is then in place was repaired.
fn settle<E: std::fmt::Display>(
    found: &mut Examined,
    leave: &mut Leave<'_>,
    look: impl Fn() -> Result<Vec<Fault>, String>,
    mend: impl FnOnce(&Repairs<'_>, &[Fault]) -> Result<(), E>,
) {
    let faults = match look() {
        Ok(faults) => faults,
        Err(error) => return found.unknown = Some(error),
    };
    if faults.is_empty() {
        return;
    }
    let mended = leave
        .get()
        .and_then(|repairs| mend(repairs, &faults).map_err(|error| error.to_string()));
    match look() {
        Ok(after) => found.settle(&faults, &after, mended.err()),
        Err(error) => found.unknown = Some(error),
    }
}

fn certificate(pod: &Pod, found: &mut Examined) {
    let usable = pod
        .credential()
        .and_then(|credential| credential.usable().map(drop));
    if let Err(error) = usable {
        found
            .standing
            .push(Finding::new("certificate", error.to_string()));
    }
}
