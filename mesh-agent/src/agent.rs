//! The agent's life on one node: what starts in which order, what is brought in
//! line with each change of the configuration, and how it ends. Called by the
//! `run` command.
//!
//! The order matters. The kernel programs are attached before anything is
//! enrolled; a pod's listener and `sk_lookup` stand before its `connect()` is
//! redirected; a new configuration is in force before what it no longer permits
//! is cut.

mod audit;
mod authority;
mod events;
mod farewell;
mod fleet;
mod front;
mod gate;
mod limits;
mod metrics;
mod plan;
mod starting;
mod statuses;
mod view;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::admin::{self, MetricsIdentities};
use crate::budget::BudgetOptions;
use crate::ca::client::RemoteError;
use crate::ca::{CaError, FileError};
use crate::config::{FolderSource, KubeSource, Source};
use crate::intercept::{self, Interceptor, KubeletCgroup};
use crate::netns::NetnsThreads;
use crate::node::{Sandboxes, chain};
use crate::observe::logging::LogQueue;
use crate::observe::{AccessLog, Observer, Reason, Registry};
use crate::proxy::{Generation, Shared, Workers};

use audit::{Auditor, Scope};
use authority::Identities;
use fleet::Fleet;
use front::Front;
use starting::Starting;
use statuses::Statuses;

pub use authority::Authority;
use view::{Phase, View};

/// How often pods that could not be enrolled are tried again, and those that are
/// enrolled are looked after. The kernel tells nobody of a namespace that comes
/// or goes.
const TICK: Duration = Duration::from_millis(500);

/// Ticks between two returns of unused sockets.
const RELAX_EVERY: u32 = 20;

/// What one agent is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where the mesh's configuration comes from.
    pub source: SourceSettings,
    /// This node's name: the pods with this `spec.nodeName` are enrolled here.
    pub node: String,
    /// The cgroup v2 directory to which the kernel programs attach, parent of
    /// every pod's cgroup.
    pub pods_cgroup: PathBuf,
    /// Whose probes reach the pods whatever their policy.
    pub kubelet: KubeletCgroup,
    /// Where maps and links are pinned, on a bpffs.
    pub pin_dir: PathBuf,
    /// Where the unix socket is.
    pub run_dir: PathBuf,
    /// Where the embedded authority keeps its keys, and what a remote one told of
    /// trust is saved.
    pub state_dir: PathBuf,
    /// Who certifies the workloads.
    pub authority: Authority,
    /// Validity of certificates; `None` leaves it to the authority.
    pub certificate_lifetime: Option<Duration>,
    /// Folder of certificates that are brought as files; they go before the authority.
    pub certificates: Option<PathBuf>,
    /// Where and how the CNI plugin is kept in the container runtime's configuration; `None`
    /// leaves that configuration alone.
    pub chain: Option<(chain::Place, chain::Settings)>,
    /// Metrics and readiness.
    pub admin: SocketAddr,
    /// To whom metrics at that address name workloads.
    pub metrics_identities: MetricsIdentities,
    /// File with the token that proves the right to see them.
    pub metrics_token: Option<PathBuf>,
    /// Threads that carry traffic.
    pub workers: NonZeroUsize,
    /// How long connections may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// What pods may hold of the agent's descriptors and memory.
    pub budget: BudgetOptions,
}

/// Where the mesh's configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceSettings {
    /// A folder of Kubernetes-shaped YAML.
    Folder(PathBuf),
    /// The Kubernetes API of the cluster that the agent runs in, or of `KUBECONFIG`.
    Kube,
}

impl std::fmt::Display for SourceSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(dir) => write!(f, "{}", dir.display()),
            Self::Kube => f.write_str("the Kubernetes API"),
        }
    }
}

/// Time for the access log's last lines to be written.
const FLUSH: Duration = Duration::from_secs(2);

/// Time for tunnels to send what their last streams left in them. A peer that is
/// there takes it in a round trip or two.
const LAST_BYTES: Duration = Duration::from_secs(2);

/// Why the agent could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel programs could not be loaded, attached or pinned.
    #[error(transparent)]
    Intercept(#[from] intercept::InterceptError),
    /// The Kubernetes API cannot be spoken to.
    #[error(transparent)]
    Kubernetes(#[from] crate::kubernetes::KubernetesError),
    /// The configuration cannot be read at all.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The embedded authority cannot be opened.
    #[error(transparent)]
    Embedded(#[from] CaError),
    /// The remote authority's settings make no sense.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The folder of certificates cannot be read.
    #[error(transparent)]
    Certificates(#[from] FileError),
    /// The admin interfaces cannot listen.
    #[error(transparent)]
    Admin(#[from] admin::AdminError),
    /// A worker thread cannot be started.
    #[error(transparent)]
    Workers(#[from] crate::proxy::WorkersError),
    /// A signal handler or the namespace thread cannot be set up.
    #[error("cannot start: {0}")]
    Start(#[source] std::io::Error),
}

/// Runs the agent until `stop` turns true, then drains it. Its log goes to `log`.
///
/// # Errors
/// What keeps it from starting, each with its cure. Once it runs, a fault in the
/// configuration or in one pod is reported and the rest goes on.
pub async fn run(
    options: Options,
    log: &LogQueue,
    mut stop: watch::Receiver<bool>,
) -> Result<(), Error> {
    limits::raise_open_files();
    let registry = Arc::new(Registry::new());
    log.register(&registry);
    let access = AccessLog::spawn(log.dropped()).map_err(Error::Start)?;
    let observer = Observer::new(&registry, access);
    for absent in intercept::features::probe(&options.pods_cgroup, &options.pin_dir)
        .into_iter()
        .filter(|feature| !feature.present)
    {
        tracing::warn!(feature = absent.name, needed = absent.needed, detail = %absent.detail,
            cure = absent.cure, "this machine lacks a feature");
    }
    let starting = Starting::new(&options, log.dropped());
    let mut front = Front::open(&options, &registry, &starting).await?;
    let sandboxes = Sandboxes::new(options.pods_cgroup.clone());
    let (mut source, client) = open_source(&options, &sandboxes).await?;
    if let Some(client) = &client {
        front.verify_tokens_with(client);
    }
    let asks = farewell::Asks::open(client.as_ref());
    starting.hears(source.health());
    // Whose programs are in the kernel looks after the node's pods, and cannot without a
    // configuration: where there is an agent that can, it goes on until then.
    let early = match front.is_beside() {
        true => None,
        false => Some(attach(&options)?),
    };
    let first = loop {
        tokio::select! {
            first = source.changed() => break first,
            () = front.left_alone() => front.take_over()?,
            // An API server may be away for long.
            _ = stop.wait_for(|stop| *stop) => {
                return give_up(asks.as_ref(), &options, early, &front).await;
            }
        }
    };
    starting.reads(&first);
    let (identities, first) = Identities::open(&options, &mut source, first).await?;
    let identities = Arc::new(identities);
    let interceptor = early.map_or_else(|| attach(&options), Ok)?;
    front.take_over()?;
    let shared = Shared::new(
        Arc::clone(&interceptor),
        Arc::clone(&identities.trust),
        Arc::clone(&observer),
        limits::budget(&options.budget),
        Generation::nothing(),
        source.health(),
    );
    let workers = Workers::start(options.workers.get(), &shared)?;
    let threads = NetnsThreads::start().map_err(Error::Start)?;
    let fleet = Fleet::new(
        Arc::clone(&shared),
        workers,
        threads.clone(),
        Arc::clone(&identities),
        &options,
    );
    let fleet = Arc::new(fleet);
    metrics::register(&registry, &interceptor, &fleet, &identities, &shared.budget);
    metrics::handshakes::register(&registry, &shared);
    let auditor = Auditor::new(&options.node, &fleet, &shared, threads.sockets);
    metrics::audit::register(&registry, &auditor);
    let (ask, mut asked) = audit::requests();
    let audits = view::Audits::new(&auditor, ask);
    let view = View::new(
        &options,
        &shared,
        &fleet,
        &identities,
        audits,
        source.health(),
        log.dropped(),
    );
    front.show(&view);
    let cluster = client.clone().zip(source.health());
    let cluster = cluster.map(|(client, health)| gate::Cluster { client, health });
    let (keeper, _at_the_gate) = gate::open(&options, &view, &shared, &fleet, &sandboxes, cluster)?;
    let _events = events::watch(&interceptor, &fleet, &shared.observer);
    let _judging = judge_when_trust_changes(&fleet, &identities);

    fleet.apply(first).await;
    view.enter(Phase::Serving);
    fleet.tell();
    tracing::info!(node = %options.node, "the agent is ready");
    let statuses = client.clone();
    let statuses = statuses.map(|client| statuses::keep(client, &options.node, &fleet));
    tend(&fleet, &auditor, &mut source, statuses, &mut asked, stop).await;
    asked.close();
    auditor.retire();

    // While it serves on.
    let leaving = farewell::say(asks.as_ref(), &options, &interceptor).await;
    view.enter(Phase::Draining);
    if let Some(leaving) = &leaving {
        leaving.open_pods(keeper, &fleet).await;
    }
    drain(&shared, &fleet, options.drain_timeout).await;
    if let Some(leaving) = leaving {
        leaving.clear().await;
    }
    let access = observer.access_log().clone();
    // The threads' own clean-up cannot fail, and nothing is left to be told if it did.
    let _ = tokio::task::spawn_blocking(move || access.flush(FLUSH)).await;
    Ok(())
}

/// Puts the programs into the kernel, in the place of an older agent's.
fn attach(options: &Options) -> Result<Arc<Interceptor>, Error> {
    let interceptor = Interceptor::open(&intercept::Options {
        pods_cgroup: options.pods_cgroup.clone(),
        pin_dir: options.pin_dir.clone(),
        agent_cgroup: None,
        kubelet: options.kubelet.clone(),
    })?;
    tracing::info!(node = %options.node, pods_cgroup = %options.pods_cgroup.display(),
        pin_dir = %options.pin_dir.display(), "kernel programs attached");
    Ok(Arc::new(interceptor))
}

/// The end of an agent that never knew a configuration.
async fn give_up(
    asks: Option<&farewell::Asks>,
    options: &Options,
    early: Option<Arc<Interceptor>>,
    front: &Front,
) -> Result<(), Error> {
    let interceptor = match early {
        Some(interceptor) => interceptor,
        // Nothing here is ours.
        None if front.is_beside() => return Ok(()),
        None => attach(options)?,
    };
    if let Some(leaving) = farewell::say(asks, options, &interceptor).await {
        leaving.unchain(None).await;
        leaving.clear().await;
    }
    Ok(())
}

/// The source of the configuration, and the client of the API that it hears.
async fn open_source(
    options: &Options,
    sandboxes: &Arc<Sandboxes>,
) -> Result<(Source, Option<Client>), Error> {
    Ok(match &options.source {
        SourceSettings::Folder(dir) => {
            let folder = FolderSource::open(dir, &options.node)?;
            (Source::Folder(folder), None)
        }
        SourceSettings::Kube => {
            let client = crate::kubernetes::client(crate::kubernetes::Retries::Caller).await?;
            let sandboxes = Arc::clone(sandboxes);
            let api = KubeSource::open(client.clone(), &options.node, sandboxes).await?;
            (Source::Kube(api), Some(client))
        }
    })
}

/// Cuts what new trust no longer supports, and has TLS settings apply to the peers that
/// hold tunnels, until the returned set is dropped.
fn judge_when_trust_changes(fleet: &Arc<Fleet>, identities: &Identities) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let mut news = identities.trust.subscribe();
    let judging = Arc::clone(fleet);
    tasks.spawn(async move {
        while news.changed().await.is_ok() {
            judging.judge().await;
        }
    });
    let mut settings = identities.parameters.subscribe();
    let fleet = Arc::clone(fleet);
    tasks.spawn(async move {
        while settings.changed().await.is_ok() {
            fleet.ask_for_new_handshakes();
        }
    });
    tasks
}

/// Brings the node in line with each change, until told to stop. An agent that was
/// superseded only goes on serving: the node's pods are the newer one's.
async fn tend(
    fleet: &Fleet,
    auditor: &Auditor,
    source: &mut Source,
    statuses: Option<Statuses>,
    asked: &mut mpsc::Receiver<audit::Answer>,
    mut stop: watch::Receiver<bool>,
) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut audits = tokio::time::interval(audit::EVERY);
    audits.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ticks = 0u32;
    loop {
        tokio::select! {
            loaded = source.changed() => fleet.apply(loaded).await,
            () = fleet.orphans_changed() => fleet.look_after_orphans(),
            _ = tick.tick() => {
                if fleet.is_superseded() {
                    tracing::warn!("another agent took the node's pods over: only serving on");
                    break;
                }
                fleet.look_after().await;
                ticks = ticks.wrapping_add(1);
                if ticks.is_multiple_of(RELAX_EVERY) {
                    fleet.relax();
                }
            }
            _ = audits.tick() => auditor.run(Scope::InTurn).await,
            Some(answer) = asked.recv() => {
                auditor.run(Scope::All).await;
                // Whoever asked may have gone.
                let _ = answer.send(auditor.report());
            }
            _ = stop.wait_for(|stop| *stop) => {
                if let Some(statuses) = statuses {
                    statuses.end().await;
                }
                return;
            }
        }
    }
    asked.close();
    auditor.retire();
    // What it knows is no longer what is true.
    if let Some(statuses) = statuses {
        statuses.end().await;
    }
    // The sender is dropped with the process only.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Closes the listeners, lets connections end for `limit`, and cuts the rest. The
/// pinned programs stay: without an agent the pods' traffic is refused.
async fn drain(shared: &Arc<Shared>, fleet: &Fleet, limit: Duration) {
    let open = shared.observer.open_connections();
    tracing::info!(connections = open, "draining");
    shared.draining.send_replace(true);
    if tokio::time::timeout(limit, shared.observer.idle())
        .await
        .is_err()
    {
        let cut = shared.observer.cut(Reason::Drained, |_| true);
        tracing::warn!(
            connections = cut,
            "the time to drain is over: cutting what is left"
        );
        // Each cut connection writes its line and leaves the table.
        let _ = tokio::time::timeout(Duration::from_secs(1), shared.observer.idle()).await;
    }
    // The end of a connection may still be on its way to the peer. Leaving now would
    // turn it into a reset.
    let sent = async {
        fleet.close_tunnels().await;
        shared.tunnels_ended().await;
    };
    if tokio::time::timeout(LAST_BYTES, sent).await.is_err() {
        tracing::warn!("some tunnels did not close in time: their peers may see a reset");
    }
}
