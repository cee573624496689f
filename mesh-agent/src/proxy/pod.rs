//! One enrolled pod as the data plane knows it. Made by the agent's enrolment,
//! shared by the workers, and dropped with the last of its connections.

use std::net::{IpAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::watch;

use super::labels::pod_labels;
use crate::budget::PodBudget;
use crate::handshakes::Handshakes;
use crate::hbone::{Baggage, BaggageFields, WorkloadKind};
use crate::identity::{Credential, CredentialError};
use crate::model::Workload;
use crate::netns::{Netns, NetnsThread, SocketStash};
use crate::observe::PodLabels;

/// Inbound TLS handshakes of a pod that may be under way at once. Each holds a descriptor
/// for up to ten seconds before its peer has proved anything, so strangers must not be
/// able to use up the agent's. An agent has one tunnel or a few to each source pod, and
/// 512 of them starting in the same instant is a whole cluster's worth. Which of them are
/// dropped for more, [`Handshakes`] decides.
const MAX_HANDSHAKES: usize = 512;

/// Distinguishes a pod from an earlier one of the same name.
static EPOCHS: AtomicU64 = AtomicU64::new(1);

/// What [`Pod::new`] puts together.
pub struct PodParts {
    /// The workload that runs in the pod.
    pub workload: Arc<Workload>,
    /// The pod's network namespace.
    pub netns: Arc<Netns>,
    /// The agent's listener in the namespace.
    pub listener: TcpListener,
    /// The listener's port.
    pub port: u16,
    /// What the pod's connections may hold.
    pub budget: Arc<PodBudget>,
}

/// How far a pod's time in the mesh has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Enrolled,
    /// It left the mesh and lives on.
    Released,
    /// Its network namespace was taken away.
    Gone,
}

/// An enrolled pod.
pub struct Pod {
    epoch: u64,
    workload: ArcSwap<Workload>,
    labels: ArcSwap<PodLabels>,
    baggage: ArcSwapOption<Baggage>,
    netns: Arc<Netns>,
    budget: Arc<PodBudget>,
    credential: ArcSwapOption<Credential>,
    /// Held here until a worker accepts on it; closed when that ends.
    listener: Mutex<Option<Arc<TcpListener>>>,
    accepting: Weak<TcpListener>,
    port: u16,
    pub(crate) sockets: SocketStash,
    pub(super) handshakes: Arc<Handshakes>,
    stage: watch::Sender<Stage>,
}

impl Pod {
    /// Puts a pod together; traffic flows once a worker listens for it.
    pub fn new(parts: PodParts, thread: NetnsThread) -> Arc<Self> {
        let PodParts {
            workload,
            netns,
            listener,
            port,
            budget,
        } = parts;
        let listener = Arc::new(listener);
        Arc::new(Self {
            epoch: EPOCHS.fetch_add(1, Ordering::Relaxed),
            labels: ArcSwap::from_pointee(pod_labels(&workload)),
            baggage: ArcSwapOption::from_pointee(baggage(&workload)),
            workload: ArcSwap::new(workload),
            sockets: SocketStash::new(Arc::clone(&netns), thread, &budget),
            netns,
            budget,
            credential: ArcSwapOption::empty(),
            accepting: Arc::downgrade(&listener),
            listener: Mutex::new(Some(listener)),
            port,
            handshakes: Handshakes::new(MAX_HANDSHAKES),
            stage: watch::Sender::new(Stage::Enrolled),
        })
    }

    /// A number no other pod of this agent has had.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The workload in the pod, as the configuration last described it.
    pub fn workload(&self) -> Arc<Workload> {
        self.workload.load_full()
    }

    /// Takes a newer description of the same pod.
    pub fn describe(&self, workload: Arc<Workload>) {
        self.labels.store(Arc::new(pod_labels(&workload)));
        self.baggage.store(baggage(&workload).map(Arc::new));
        self.workload.store(workload);
    }

    /// The labels with which its connections are counted and logged.
    pub fn labels(&self) -> Arc<PodLabels> {
        self.labels.load_full()
    }

    /// What its tunnels tell of it.
    pub(super) fn baggage(&self) -> Option<Baggage> {
        self.baggage.load().as_deref().cloned()
    }

    /// Its network namespace.
    pub fn netns(&self) -> &Arc<Netns> {
        &self.netns
    }

    /// What its connections hold, and may hold.
    pub fn budget(&self) -> &Arc<PodBudget> {
        &self.budget
    }

    /// Its certificate and key.
    ///
    /// # Errors
    /// While none was issued: the pod then refuses, for it has nothing to prove
    /// its identity with.
    pub fn credential(&self) -> Result<Arc<Credential>, CredentialError> {
        self.credential
            .load_full()
            .ok_or(CredentialError::NotIssued)
    }

    /// Takes the certificate that was issued to it.
    pub fn certify(&self, credential: Arc<Credential>) {
        self.credential.store(Some(credential));
    }

    /// The listener, to whoever accepts on it; once.
    pub(super) fn take_listener(&self) -> Option<Arc<TcpListener>> {
        self.listener
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// The listener, as long as somebody accepts on it or is about to. Not to be kept: it
    /// would stay open after its acceptor has gone.
    pub fn listener(&self) -> Option<Arc<TcpListener>> {
        self.accepting.upgrade()
    }

    /// The port of the agent's listener in it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether `ip` is one of its own addresses.
    pub fn owns(&self, ip: IpAddr) -> bool {
        self.workload.load().addresses.contains(&ip)
    }

    /// Gives back what it held for speed and did not use lately.
    pub fn relax(&self) {
        self.sockets.relax();
    }

    /// Ends the accepting of new connections and drains the pod's tunnels.
    /// Connections under way go on.
    pub fn release(&self) {
        self.stage.send_replace(Stage::Released);
    }

    /// Ends everything that would keep the deleted pod's namespace, and with it
    /// its address, alive.
    pub fn gone(&self) {
        self.stage.send_replace(Stage::Gone);
    }

    /// Completes once [`Pod::release`] or [`Pod::gone`] was called.
    pub async fn until_released(&self) {
        self.until(|stage| stage != Stage::Enrolled).await;
    }

    /// Completes once [`Pod::gone`] was called.
    pub async fn until_gone(&self) {
        self.until(|stage| stage == Stage::Gone).await;
    }

    async fn until(&self, reached: impl Fn(Stage) -> bool) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self
            .stage
            .subscribe()
            .wait_for(|stage| reached(*stage))
            .await;
    }
}

fn baggage(workload: &Workload) -> Option<Baggage> {
    Baggage::new(BaggageFields {
        namespace: Some(Arc::clone(&workload.namespace)),
        workload: Some((WorkloadKind::Pod, Arc::clone(&workload.name))),
        service: workload.app.clone(),
        version: workload.version.clone(),
        ..BaggageFields::default()
    })
}
