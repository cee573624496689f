//! `mesh-agent ca serve`: the authority on the network, until it is told to stop.
//! It has the log of the agent, and ends as the agent does.

mod cluster;

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::{ArgGroup, Args};
use rustls::pki_types::ServerName;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{CaCommandError, DirArgs};
use crate::admin;
use crate::ca::CaError;
use crate::ca::authorize::{Authorizer, FolderAuthorizer};
use crate::ca::server::{ServeError, Server, Settings};
use crate::config::ConfigError;
use crate::identity::{SystemClock, TrustDomain};
use crate::kubernetes::KubernetesError;
use crate::observe::logging;

/// Options of `mesh-agent ca serve`.
#[derive(Clone, Debug, Args)]
#[command(group(ArgGroup::new("source").required(true).args(["config", "kube"])))]
pub struct ServeArgs {
    /// Where the authority is.
    #[command(flatten)]
    pub dir: DirArgs,
    /// Address of the certificate API; 15012 is Istio's port for it.
    #[arg(long, value_name = "ADDR:PORT", default_value_t = DEFAULT_LISTEN)]
    pub listen: SocketAddr,
    /// DNS name or IP address under which agents reach it, for its own certificate.
    /// May be given several times.
    #[arg(long = "name", value_name = "NAME", required = true, value_parser = server_name)]
    pub names: Vec<ServerName<'static>>,
    /// Folder of Kubernetes-shaped YAML that says which pods run on which node. It is
    /// watched.
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "kube",
        conflicts_with = "kube"
    )]
    pub config: Option<PathBuf>,
    /// What there is for an authority in a cluster.
    #[command(flatten)]
    pub cluster: cluster::ClusterArgs,
    /// Address for probes over HTTP: /healthz and /readyz.
    #[arg(long, value_name = "ADDR:PORT")]
    pub health: Option<SocketAddr>,
    /// Form of the log on standard error; RUST_LOG filters it.
    #[arg(long, value_enum, default_value_t)]
    pub log_format: logging::Format,
}

/// Time for the last log lines to be written before the process ends.
const LOG_FLUSH: Duration = Duration::from_secs(2);

/// All addresses, of both families.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 15012);

/// Why the authority is not served.
#[derive(Debug, thiserror::Error)]
pub enum CaServeError {
    /// The directory.
    #[error(transparent)]
    Authority(#[from] CaError),
    /// The folder.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The log.
    #[error(transparent)]
    Log(#[from] logging::LogError),
    /// The signals that end it.
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] io::Error),
    /// The server.
    #[error(transparent)]
    Server(#[from] ServeError),
    /// The address for probes.
    #[error("cannot listen on {address} for probes: {source}; give another address with --health")]
    Health {
        /// As it was given.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The Kubernetes API.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    /// The authority is another mesh's.
    #[error(
        "the authority in {} is of trust domain {found}, and not {wanted}: give --trust-domain \
         {found}, or another --dir", .dir.display()
    )]
    OtherTrustDomain {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        found: TrustDomain,
        /// Whose it should be.
        wanted: TrustDomain,
    },
    /// The directory is empty, and the cluster trusts an authority already.
    #[error(
        "there is no authority in {}, and the roots of one are in the ConfigMap {namespace}/{}: \
         restore the directory's volume; or, to start anew with a root that nobody trusts yet, \
         delete the ConfigMap", .dir.display(), crate::ca::published::NAME
    )]
    Lost {
        /// The directory.
        dir: PathBuf,
        /// Where the ConfigMap is.
        namespace: String,
    },
}

/// Serves until SIGTERM or SIGINT, then lets open calls end.
pub(super) async fn until_told(args: &ServeArgs) -> Result<(), CaCommandError> {
    let log = logging::install(args.log_format).map_err(CaServeError::from)?;
    let served = async {
        let mut terminate = signal(SignalKind::terminate()).map_err(CaServeError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(CaServeError::Signals)?;
        let (stop, stopped) = watch::channel(false);
        let mut serving = pin!(serve(args, stopped));
        tokio::select! {
            ended = &mut serving => return ended,
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.send_replace(true);
        serving.await
    };
    let served = served.await;
    log.flush(LOG_FLUSH);
    Ok(served?)
}

async fn serve(args: &ServeArgs, mut stop: watch::Receiver<bool>) -> Result<(), CaServeError> {
    // First of all, so that a process that waits for the API is seen to live.
    let readiness = Readiness::default();
    let _probes = probes(args, &readiness).await?;
    let mut upkeep = JoinSet::new();
    let (authority, authorizer) = if let Some(config) = &args.config {
        let authority = Arc::new(args.dir.open()?);
        let authorizer = FolderAuthorizer::open(&args.dir.dir, config)?;
        (authority, Arc::new(authorizer) as Arc<dyn Authorizer>)
    } else {
        let cluster = tokio::select! {
            opened = args.cluster.open(&args.dir) => opened?,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        readiness.wait_for_roots(cluster.published.done());
        upkeep.spawn(cluster.published.keep());
        (cluster.authority, cluster.authorizer)
    };
    let settings = Settings {
        listen: args.listen,
        names: args.names.clone(),
    };
    let trust_domain = authority.trust_domain().clone();
    let server = Server::bind(settings, authority, authorizer, Arc::new(SystemClock)).await?;
    tracing::info!(address = %server.address(), %trust_domain, "the authority is ready");
    readiness.listens();
    let mut running = pin!(server.run(stop));
    loop {
        tokio::select! {
            () = &mut running => break,
            Some(Ok(ended)) = upkeep.join_next() => ended?,
        }
    }
    tracing::info!("the authority stopped");
    Ok(())
}

/// Answers probes until what it returns is dropped.
async fn probes(args: &ServeArgs, readiness: &Readiness) -> Result<JoinSet<()>, CaServeError> {
    let mut serving = JoinSet::new();
    if let Some(address) = args.health {
        let listener = TcpListener::bind(address);
        let listener = listener
            .await
            .map_err(|source| CaServeError::Health { address, source })?;
        let readiness = readiness.clone();
        let ready = move || readiness.missing();
        serving.spawn(admin::serve_health(listener, ready, std::future::pending()));
    }
    Ok(serving)
}

/// What probes are told. Clones share it.
#[derive(Clone, Default)]
struct Readiness {
    listening: Arc<AtomicBool>,
    roots: Arc<OnceLock<watch::Receiver<bool>>>,
}

impl Readiness {
    fn listens(&self) {
        self.listening.store(true, Ordering::Relaxed);
    }

    fn wait_for_roots(&self, published: watch::Receiver<bool>) {
        // Called once in a process.
        let _ = self.roots.set(published);
    }

    fn missing(&self) -> Result<(), Vec<String>> {
        let mut missing = Vec::new();
        if !self.listening.load(Ordering::Relaxed) {
            missing
                .push("the authority does not listen yet; its log says what it waits for".into());
        }
        if self
            .roots
            .get()
            .is_some_and(|published| !*published.borrow())
        {
            missing.push(format!(
                "the roots are not in the ConfigMap {} yet; the log says why",
                crate::ca::published::NAME
            ));
        }
        if missing.is_empty() {
            Ok(())
        } else {
            Err(missing)
        }
    }
}

fn server_name(text: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(text.to_owned())
        .map_err(|_| format!("{text:?} is neither a DNS name nor an IP address"))
}
