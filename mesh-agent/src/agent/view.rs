//! What the agent tells of itself. Everything about a pod's place in the mesh is
//! read from the kernel at the moment of asking, never remembered.

mod identity;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use prometheus_client::metrics::counter::Counter;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::audit::{Answer, Auditor, partly_covered, pod_faults};
use super::authority::Identities;
use super::fleet::{Fleet, ORPHANED, Orphan, is_strict};
use super::{Options, limits};
use crate::admin::AgentView;
use crate::admin::api::{
    ApiKindStatus, Attachment, AuditReport, BudgetStatus, CniStatus, ConfigStatus, KernelStatus,
    Limits, ProbesStatus, Status, WorkloadState, WorkloadStatus,
};
use crate::budget::PodBudget;
use crate::config::{KindHealth, KubeHealth, check_local_pod};
use crate::explain::{self, ExplainError, Explanation, Question};
use crate::intercept::Fault;
use crate::model::{Origin, Problem, Severity, Workload, World};
use crate::node::chain::Keeper;
use crate::observe::{ConnectionInfo, Flow};
use crate::proxy::{Pod, Shared};

/// How far the agent has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Reading the configuration for the first time and enrolling its pods.
    Starting,
    /// Doing its work.
    Serving,
    /// Shutting down.
    Draining,
}

/// The audit, as somebody who is not in the main loop asks for it.
pub(super) struct Audits {
    auditor: Arc<Auditor>,
    ask: mpsc::Sender<Answer>,
}

impl Audits {
    pub(super) fn new(auditor: &Arc<Auditor>, ask: mpsc::Sender<Answer>) -> Self {
        let auditor = Arc::clone(auditor);
        Self { auditor, ask }
    }

    /// Blocks until the main loop has come to it. Not for the runtime's own threads.
    fn run(&self, probe: bool) -> Result<AuditReport, String> {
        let over = || {
            "this agent has stopped to look after the pods: it is shutting down, or another \
             has taken its place"
                .to_owned()
        };
        let (answer, answered) = oneshot::channel();
        self.ask.blocking_send(answer).map_err(|_| over())?;
        let mut report = answered.blocking_recv().map_err(|_| over())?;
        if probe {
            Handle::current().block_on(self.auditor.probe(&mut report));
        }
        Ok(report)
    }
}

/// The agent, as its administrative interface sees it.
pub(super) struct View {
    options: Options,
    shared: Arc<Shared>,
    fleet: Arc<Fleet>,
    identities: Arc<Identities>,
    audits: Audits,
    /// Of a source that is heard over the network.
    api: Option<KubeHealth>,
    /// Set where the agent keeps the CNI plugin in its chain.
    chain: OnceLock<Arc<Keeper>>,
    started: Instant,
    phase: AtomicU8,
    log_lines_dropped: Counter,
    /// When each workload came into the state it was last seen in.
    states: Mutex<HashMap<Arc<str>, (WorkloadState, Instant)>>,
}

impl View {
    pub(super) fn new(
        options: &Options,
        shared: &Arc<Shared>,
        fleet: &Arc<Fleet>,
        identities: &Arc<Identities>,
        audits: Audits,
        api: Option<KubeHealth>,
        log_lines_dropped: Counter,
    ) -> Arc<Self> {
        Arc::new(Self {
            options: options.clone(),
            shared: Arc::clone(shared),
            fleet: Arc::clone(fleet),
            identities: Arc::clone(identities),
            audits,
            api,
            chain: OnceLock::new(),
            started: Instant::now(),
            phase: AtomicU8::new(Phase::Starting as u8),
            log_lines_dropped,
            states: Mutex::default(),
        })
    }

    /// The agent has come to `phase`.
    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Tells of the keeper's problems too, from now on.
    pub(super) fn show_chain(&self, keeper: &Arc<Keeper>) {
        self.chain.get_or_init(|| Arc::clone(keeper));
    }

    fn kernel(&self) -> KernelStatus {
        let attachments = self.shared.interceptor.attachments().into_iter();
        let counters = self.shared.interceptor.counters().unwrap_or_default();
        let mut counters: std::collections::BTreeMap<String, u64> = counters
            .iter()
            .map(|(counter, count)| (counter.name().to_owned(), count))
            .collect();
        counters.insert("plaintext_reset".to_owned(), self.fleet.plaintext_reset());
        KernelStatus {
            release: kernel_release(),
            attachments: attachments
                .map(|link| Attachment {
                    name: link.name,
                    attached: link.attached,
                    link_id: Some(link.link_id).filter(|id| *id != 0),
                    prog_id: Some(link.prog_id).filter(|id| *id != 0),
                    tag: Some(link.tag).filter(|tag| !tag.is_empty()),
                })
                .collect(),
            counters,
        }
    }

    fn probes(&self) -> ProbesStatus {
        let interceptor = &self.shared.interceptor;
        let cgroup = interceptor.kubelet_cgroup();
        ProbesStatus {
            cgroup: cgroup.map(|cgroup| cgroup.display().to_string()),
            error: interceptor.kubelet_error().map(|error| error.to_string()),
        }
    }

    /// What the kernel and the agent say of one workload.
    fn judge(
        &self,
        world: &World,
        workload: &Workload,
        here: &Here,
    ) -> (WorkloadState, Vec<String>) {
        if !workload.meshed {
            return (WorkloadState::OutsideMesh, Vec::new());
        }
        if *workload.node != *self.options.node {
            return (WorkloadState::Remote, Vec::new());
        }
        let Some(pod) = here.enrolled.get(&workload.uid) else {
            let pending = self.fleet.pending(&workload.uid);
            let problems: Vec<_> = pending.iter().map(ToString::to_string).collect();
            let state = match problems.is_empty() && workload.local.is_some() {
                true => WorkloadState::Pending,
                false => WorkloadState::NotEnrolled,
            };
            return (state, problems);
        };
        // A pod that is going away is told by its paths, which say what to do about it.
        let gone = check_local_pod(workload, &self.options.pods_cgroup);
        let gone: Vec<String> = gone.iter().map(ToString::to_string).collect();
        let strict = is_strict(world, workload);
        let own = pod_faults(&self.shared.interceptor, pod, strict);
        // Its processes may hold a namespace whose path is gone: then it is served as before.
        if !gone.is_empty() && !own.as_ref().is_ok_and(Vec::is_empty) {
            return (WorkloadState::NotEnrolled, gone);
        }
        let mut problems: Vec<String> = match (&here.node, &own) {
            (Ok(node), Ok(own)) => {
                let missing = node.iter().chain(own).filter(|fault| fault.uncovers());
                missing.map(ToString::to_string).collect()
            }
            (Err(error), _) | (_, Err(error)) => {
                vec![format!("what the kernel has cannot be read: {error}")]
            }
        };
        if !problems.is_empty() {
            return (WorkloadState::NotEnrolled, problems);
        }
        problems.extend(gone);
        let usable = pod.credential().and_then(|credential| credential.usable());
        match usable {
            Ok(_) => match partly_covered(&self.shared.interceptor, pod, strict) {
                Ok(None) => (WorkloadState::Enrolled, problems),
                Ok(Some(finding)) => (WorkloadState::PartlyCovered, vec![finding.detail]),
                Err(error) => (WorkloadState::NotEnrolled, vec![error]),
            },
            Err(error) => {
                problems.push(error.to_string());
                (WorkloadState::Refusing, problems)
            }
        }
    }

    /// A pod whose object is gone.
    fn orphan(&self, orphan: &Orphan) -> WorkloadStatus {
        let workload = orphan.workload.as_deref();
        let addresses = workload.map_or(&[][..], |it| &it.addresses);
        WorkloadStatus {
            name: orphan.name(),
            namespace: orphan.namespace().to_owned(),
            node: self.options.node.clone(),
            identity: workload.map_or_else(String::new, |it| it.identity.to_string()),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            local: true,
            meshed: false,
            state: WorkloadState::Orphaned,
            mode: None,
            since_s: Some(orphan.since.elapsed().as_secs()),
            problems: vec![ORPHANED.to_owned()],
            certificate_expires_in_s: None,
            budget: None,
        }
    }

    fn since(&self, uid: &Arc<str>, state: WorkloadState) -> u64 {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = states
            .entry(Arc::clone(uid))
            .or_insert((state, Instant::now()));
        if seen.0 != state {
            *seen = (state, Instant::now());
        }
        seen.1.elapsed().as_secs()
    }
}

fn budget_status(budget: &PodBudget) -> BudgetStatus {
    let (descriptors, buffered) = (budget.descriptors(), budget.buffered_bytes());
    BudgetStatus {
        descriptors: descriptors.used,
        max_descriptors: descriptors.limit,
        buffered_bytes: buffered.used,
        max_buffered_bytes: buffered.limit,
    }
}

pub(super) fn kernel_release() -> String {
    nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// What becomes of what is not heard, once a configuration is known.
const STAYS: &str = "what is known stays in force";

/// What of the Kubernetes API is not heard now. `meanwhile` says what that means.
pub(super) fn unheard(health: &KubeHealth, meanwhile: &str) -> Vec<Problem> {
    let kinds = health.kinds().into_iter();
    let problem = |kind: KindHealth| {
        let seconds = kind.away_since?.elapsed().as_secs();
        let error = kind.error.as_deref().unwrap_or("no answer");
        let message = format!("not heard for {seconds} s: {error}");
        Some(Problem {
            file: Origin::API.into(),
            object: None,
            field: kind.kind,
            message,
            cure: format!(
                "{meanwhile}; see that the API server is up and that the agent may list these"
            ),
            severity: Severity::Error,
        })
    };
    kinds.filter_map(problem).collect()
}

pub(super) fn api_kinds(health: &KubeHealth) -> Vec<ApiKindStatus> {
    let kinds = health.kinds().into_iter();
    let kinds = kinds.map(|kind| ApiKindStatus {
        kind: kind.kind,
        version: kind.version,
        synced: kind.synced,
        away_for_s: kind.away_since.map(|since| since.elapsed().as_secs()),
        error: kind.error,
    });
    kinds.collect()
}

/// The local pods as agent and kernel have them, read once for all workloads.
struct Here {
    enrolled: HashMap<Arc<str>, Arc<Pod>>,
    node: Result<Vec<Fault>, String>,
}

impl AgentView for View {
    fn status(&self) -> Status {
        let generation = self.shared.generation.load_full();
        let mesh = generation.world.mesh();
        let (open_files, max_open_files) = limits::open_files();
        let budget = &self.shared.budget;
        let (descriptors, buffered) = (budget.descriptors(), budget.buffered_bytes());
        let not_ready = self.ready().err().unwrap_or_default();
        let mut problems = self.fleet.problems();
        let chain = self.chain.get();
        problems.extend(chain.into_iter().flat_map(|chain| chain.problems()));
        problems.extend(self.api.iter().flat_map(|api| unheard(api, STAYS)));
        Status {
            node: self.options.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            instance: std::env::var(crate::admin::INSTANCE).ok(),
            uptime_s: self.started.elapsed().as_secs(),
            starting: false,
            ready: not_ready.is_empty(),
            not_ready,
            trust_domain: mesh.trust_domain.to_string(),
            inbound_mode: mesh.inbound_mode.as_str().to_owned(),
            config: ConfigStatus {
                dir: self.options.source.to_string(),
                api: self.api.as_ref().map_or_else(Vec::new, api_kinds),
                generation: generation.number,
                problems: problems.iter().map(ToString::to_string).collect(),
            },
            kernel: self.kernel(),
            cni: chain.map(|chain| CniStatus {
                file: chain.file().map(|file| file.display().to_string()),
                problems: chain.problems().iter().map(ToString::to_string).collect(),
            }),
            probes: self.probes(),
            authority: self.identities.status(),
            trust: identity::trust(&self.identities.trust),
            tls: identity::tls(&self.identities.parameters),
            certificates: identity::certificates(&self.identities.svids),
            tunnels: self.fleet.tunnels() as u64,
            connections: self.shared.observer.open_connections() as u64,
            limits: Limits {
                open_files,
                max_open_files,
                descriptors: descriptors.used,
                max_descriptors: descriptors.limit,
                buffered_bytes: buffered.used,
                max_buffered_bytes: buffered.limit,
            },
            log_lines_dropped: self.log_lines_dropped.get(),
        }
    }

    fn workloads(&self) -> Vec<WorkloadStatus> {
        let generation = self.shared.generation.load_full();
        let policies = generation.world.policies();
        let node = self.shared.interceptor.node_faults();
        let here = Here {
            enrolled: self.fleet.pods().into_iter().collect(),
            node: node.map_err(|error| error.to_string()),
        };
        let status = |workload: &Arc<Workload>| {
            let (state, problems) = self.judge(&generation.world, workload, &here);
            let local = *workload.node == *self.options.node;
            let pod = here.enrolled.get(&workload.uid);
            let credential = pod.and_then(|pod| pod.credential().ok());
            WorkloadStatus {
                name: workload.name.to_string(),
                namespace: workload.namespace.to_string(),
                node: workload.node.to_string(),
                identity: workload.identity.to_string(),
                addresses: workload.addresses.iter().map(ToString::to_string).collect(),
                local,
                meshed: workload.meshed,
                state,
                mode: (local && workload.meshed).then(|| {
                    let strictest = policies.strictest_mode(workload);
                    strictest.mode.as_str().to_owned()
                }),
                since_s: Some(self.since(&workload.uid, state)),
                problems,
                certificate_expires_in_s: credential
                    .map(|credential| identity::seconds_until(credential.info().not_after)),
                budget: pod.map(|pod| budget_status(pod.budget())),
            }
        };
        let orphans = self.fleet.orphans();
        let orphans = orphans.iter().map(|orphan| self.orphan(orphan));
        let all = generation.world.workloads().map(status);
        all.chain(orphans).collect()
    }

    fn connections(&self) -> Vec<ConnectionInfo> {
        self.shared.observer.connections()
    }

    fn audit(&self, probe: bool) -> Result<AuditReport, String> {
        self.audits.run(probe)
    }

    fn explain(&self, question: &Question) -> Result<Explanation, ExplainError> {
        let generation = self.shared.generation.load_full();
        let stale = self.api.as_ref().and_then(KubeHealth::staleness);
        let scene = explain::Scene {
            world: &generation.world,
            generation: generation.number,
            complete: generation.complete,
            stale: stale.as_ref(),
        };
        match question {
            Question::Would(query) => explain::would(&scene, query),
            Question::Connection(id) => {
                let account = self.shared.observer.find(*id);
                let account = account.ok_or_else(|| ExplainError::NoConnection(id.to_string()))?;
                Ok(explain::past(&scene, &account))
            }
        }
    }

    fn flows(&self) -> Vec<Flow> {
        self.shared.observer.flows()
    }

    fn knows(&self) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self) -> Result<(), Vec<String>> {
        let mut missing = Vec::new();
        match self.phase.load(Ordering::Relaxed) {
            phase if phase == Phase::Starting as u8 => {
                missing.push("the configuration is being read for the first time".to_owned());
            }
            phase if phase == Phase::Draining as u8 => {
                missing.push("the agent is shutting down".to_owned());
            }
            _ => {}
        }
        for link in self.shared.interceptor.attachments() {
            if !link.attached {
                missing.push(format!("the kernel program {} is not attached", link.name));
            }
        }
        match self.shared.interceptor.node_faults() {
            Ok(faults) => {
                let other = |fault: &&Fault| fault.uncovers() && !fault.is_detached();
                missing.extend(faults.iter().filter(other).map(ToString::to_string));
            }
            Err(error) => missing.push(format!("what the kernel has cannot be read: {error}")),
        }
        if missing.is_empty() {
            Ok(())
        } else {
            Err(missing)
        }
    }
}
