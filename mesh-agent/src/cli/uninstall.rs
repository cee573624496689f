//! `mesh-agent uninstall`: the mesh out of the cluster, in the order that leaves the nodes
//! as they were.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::CliError;
use super::install::{ClusterError, say};
use crate::install::{self, RemoveOptions};
use crate::kubernetes;

/// Options of `mesh-agent uninstall`.
#[derive(Clone, Debug, Args)]
pub struct UninstallArgs {
    /// Remove the definitions of Istio's kinds too, and with them all policies of these kinds.
    /// Definitions that Istio installed stay.
    #[arg(long)]
    pub crds: bool,
    /// Seconds until all of it must be gone.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub timeout: u64,
}

/// Removes everything, and says what is left.
pub(super) async fn run(args: &UninstallArgs) -> Result<ExitCode, CliError> {
    let client = kubernetes::client(kubernetes::Retries::Client)
        .await
        .map_err(ClusterError::from)?;
    let options = RemoveOptions {
        definitions: args.crds,
        timeout: Duration::from_secs(args.timeout),
    };
    install::remove(&client, options, &say)
        .await
        .map_err(ClusterError::from)?;
    say("\nIsthmus is not in this cluster any more");
    Ok(ExitCode::SUCCESS)
}
