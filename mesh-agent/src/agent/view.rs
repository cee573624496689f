//! What the agent tells of itself. Everything about a pod's place in the mesh is
//! read from the kernel at the moment of asking, never remembered.

mod identity;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use prometheus_client::metrics::counter::Counter;

use super::authority::Identities;
use super::fleet::Fleet;
use super::{Options, limits};
use crate::admin::AgentView;
use crate::admin::api::{
    Attachment, ConfigStatus, KernelStatus, Limits, Status, WorkloadState, WorkloadStatus,
};
use crate::explain::{self, ExplainError, Explanation, Question};
use crate::intercept::{KernelPod, NetnsCookie};
use crate::model::Workload;
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

/// The agent, as its administrative interface sees it.
pub(super) struct View {
    options: Options,
    shared: Arc<Shared>,
    fleet: Arc<Fleet>,
    identities: Arc<Identities>,
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
        log_lines_dropped: Counter,
    ) -> Arc<Self> {
        Arc::new(Self {
            options: options.clone(),
            shared: Arc::clone(shared),
            fleet: Arc::clone(fleet),
            identities: Arc::clone(identities),
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

    fn kernel(&self) -> KernelStatus {
        let attachments = self.shared.interceptor.attachments().into_iter();
        let counters = self.shared.interceptor.counters().unwrap_or_default();
        let mut counters: std::collections::BTreeMap<String, u64> = counters
            .iter()
            .map(|(counter, count)| (counter.name().to_owned(), count))
            .collect();
        counters.insert("plaintext_reset".to_owned(), self.fleet.plaintext_reset());
        KernelStatus {
            release: nix::sys::utsname::uname()
                .map(|name| name.release().to_string_lossy().into_owned())
                .unwrap_or_default(),
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

    /// What the kernel and the agent say of one workload.
    fn judge(&self, workload: &Workload, here: &Here) -> (WorkloadState, Vec<String>) {
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
        let mut problems = match &here.kernel {
            Ok(kernel) => missing(workload, pod, kernel.get(&pod.netns().cookie())),
            Err(error) => vec![format!("what the kernel has cannot be read: {error}")],
        };
        if !problems.is_empty() {
            return (WorkloadState::NotEnrolled, problems);
        }
        let usable = pod.credential().and_then(|credential| credential.usable());
        match usable {
            Ok(_) => (WorkloadState::Enrolled, problems),
            Err(error) => {
                problems.push(error.to_string());
                (WorkloadState::Refusing, problems)
            }
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

/// The local pods as agent and kernel have them, read once for all workloads.
struct Here {
    enrolled: HashMap<Arc<str>, Arc<Pod>>,
    kernel: Result<HashMap<NetnsCookie, KernelPod>, String>,
}

impl AgentView for View {
    fn status(&self) -> Status {
        let generation = self.shared.generation.load_full();
        let mesh = generation.world.mesh();
        let (open_files, max_open_files) = limits::open_files();
        let not_ready = self.ready().err().unwrap_or_default();
        let problems = self.fleet.problems();
        Status {
            node: self.options.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            ready: not_ready.is_empty(),
            not_ready,
            trust_domain: mesh.trust_domain.to_string(),
            inbound_mode: mesh.inbound_mode.as_str().to_owned(),
            config: ConfigStatus {
                dir: self.options.config.display().to_string(),
                generation: generation.number,
                problems: problems.iter().map(ToString::to_string).collect(),
            },
            kernel: self.kernel(),
            authority: self.identities.status(),
            trust: identity::trust(&self.identities.trust),
            tls: identity::tls(&self.identities.parameters),
            certificates: identity::certificates(&self.identities.svids),
            tunnels: self.fleet.tunnels() as u64,
            connections: self.shared.observer.open_connections() as u64,
            limits: Limits {
                open_files,
                max_open_files,
            },
            log_lines_dropped: self.log_lines_dropped.get(),
        }
    }

    fn workloads(&self) -> Vec<WorkloadStatus> {
        let generation = self.shared.generation.load_full();
        let policies = generation.world.policies();
        let kernel = self.shared.interceptor.kernel_pods();
        let here = Here {
            enrolled: self.fleet.pods().into_iter().collect(),
            kernel: kernel
                .map(|pods| pods.into_iter().map(|pod| (pod.netns, pod)).collect())
                .map_err(|error| error.to_string()),
        };
        let status = |workload: &Arc<Workload>| {
            let (state, problems) = self.judge(workload, &here);
            let local = *workload.node == *self.options.node;
            let credential = here
                .enrolled
                .get(&workload.uid)
                .and_then(|pod| pod.credential().ok());
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
            }
        };
        generation.world.workloads().map(status).collect()
    }

    fn connections(&self) -> Vec<ConnectionInfo> {
        self.shared.observer.connections()
    }

    fn explain(&self, question: &Question) -> Result<Explanation, ExplainError> {
        let generation = self.shared.generation.load_full();
        let scene = explain::Scene {
            world: &generation.world,
            generation: generation.number,
            complete: generation.complete,
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
        if missing.is_empty() {
            Ok(())
        } else {
            Err(missing)
        }
    }
}

/// What of an enrolled pod's hold in the kernel is not as the agent made it.
fn missing(workload: &Workload, pod: &Pod, kernel: Option<&KernelPod>) -> Vec<String> {
    let Some(kernel) = kernel else {
        return vec!["the kernel does not know the pod".to_owned()];
    };
    let mut missing = Vec::new();
    let mut expect = |holds: bool, what: &str| {
        if !holds {
            missing.push(what.to_owned());
        }
    };
    expect(kernel.redirected, "its connections are not redirected");
    expect(
        kernel.port == pod.port(),
        "its connections are redirected to another agent's port",
    );
    expect(kernel.guarded, "the guard does not know it");
    let lookup = kernel.lookup.as_ref();
    expect(
        lookup.is_some_and(|link| link.attached),
        "no sk_lookup link to its namespace",
    );
    expect(
        lookup.is_none_or(|link| link.current),
        "its sk_lookup link runs another agent's program",
    );
    for address in &workload.addresses {
        let slot = kernel.slots.iter().find(|slot| slot.address == *address);
        let filled = slot.is_some_and(|slot| slot.listener.is_some());
        expect(
            filled,
            &format!("no listener receives what is sent to {address}"),
        );
    }
    missing
}
