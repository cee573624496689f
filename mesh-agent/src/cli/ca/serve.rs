//! `mesh-agent ca serve`: the authority on the network, until it is told to stop.
//! It has the log of the agent, and ends as the agent does.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use rustls::pki_types::ServerName;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{CaCommandError, DirArgs};
use crate::ca::CaError;
use crate::ca::authorize::FolderAuthorizer;
use crate::ca::server::{ServeError, Server, Settings};
use crate::config::ConfigError;
use crate::identity::SystemClock;
use crate::observe::logging;

/// Options of `mesh-agent ca serve`.
#[derive(Clone, Debug, Args)]
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
    #[arg(long, value_name = "DIR")]
    pub config: PathBuf,
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

async fn serve(args: &ServeArgs, stop: watch::Receiver<bool>) -> Result<(), CaServeError> {
    let authority = Arc::new(args.dir.open()?);
    let authorizer = FolderAuthorizer::open(&args.dir.dir, &args.config)?;
    let settings = Settings {
        listen: args.listen,
        names: args.names.clone(),
    };
    let trust_domain = authority.trust_domain().clone();
    let server = Server::bind(
        settings,
        authority,
        Arc::new(authorizer),
        Arc::new(SystemClock),
    )
    .await?;
    tracing::info!(address = %server.address(), %trust_domain, "the authority is ready");
    server.run(stop).await;
    tracing::info!("the authority stopped");
    Ok(())
}

fn server_name(text: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(text.to_owned())
        .map_err(|_| format!("{text:?} is neither a DNS name nor an IP address"))
}
