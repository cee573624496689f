//! The command line: what `mesh-agent` understands and, for every command but `run`,
//! what it does. Called by `main`.

mod audit;
pub mod ca;
pub mod check;
mod clean;
pub mod cni;
mod connections;
pub mod explain;
mod flows;
mod human;
pub mod install;
mod output;
pub mod policy;
pub mod precheck;
mod probe;
pub mod ready;
pub mod remote;
pub mod run;
mod status;
mod table;
pub mod uninstall;
mod workloads;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde::de::DeserializeOwned;

use crate::admin::client::{self, ClientError};
pub use output::Format;

/// Where an agent's sockets are, unless told otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/isthmus";
/// Where an agent's eBPF links and maps are pinned, unless told otherwise.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/isthmus";
/// Where the embedded authority keeps its keys, unless told otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/isthmus";

/// Isthmus: mutual TLS between pods, with nothing in the pods.
#[derive(Debug, Parser)]
#[command(name = "mesh-agent", version, disable_help_subcommand = true)]
pub struct Cli {
    /// The agent to ask.
    #[command(flatten)]
    pub remote: remote::RemoteArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// A command of the binary.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent of this node in the foreground.
    Run(Box<run::RunArgs>),
    /// Answer a container runtime as the CNI plugin of this node.
    #[command(hide = true)]
    Cni(cni::CniArgs),
    /// Everything that looks at an agent, or after it.
    #[command(flatten)]
    Tool(Box<Tool>),
}

/// The commands beside `run`: each does its work and exits.
#[derive(Debug, Subcommand)]
pub enum Tool {
    /// Show the running agent at a glance.
    Status(Query),
    /// List the workloads that the configuration names, and where each stands.
    Workloads(Query),
    /// List the open connections.
    Connections(Query),
    /// Say why a connection would be let in or refused, or was.
    Explain(explain::ExplainArgs),
    /// List who lately talked to whom, as the agent recorded it.
    Flows(Query),
    /// Try policies out, or check them, before they are in force.
    Policy(policy::PolicyArgs),
    /// List what is wrong in the configuration.
    Problems(Query),
    /// Compare what is meant for each pod with what the kernel has now, and mend what differs.
    Audit(audit::AuditArgs),
    /// Say whether this machine has what the agent needs, and what to do where it has not.
    Check(check::CheckArgs),
    /// Remove the programs that a stopped agent left in the kernel: its pods leave the mesh.
    Clean(clean::CleanArgs),
    /// Connect from inside a pod, for `audit --probe`.
    #[command(hide = true)]
    Probe(probe::ProbeArgs),
    /// Make a certificate authority and look after it.
    Ca(Box<ca::CaArgs>),
    /// Say whether a cluster can have the mesh, and what to do where it cannot.
    Precheck(precheck::PrecheckArgs),
    /// Bring the mesh into the cluster of the kubeconfig, or bring it up to date there.
    Install(Box<install::InstallArgs>),
    /// Take the mesh out of the cluster of the kubeconfig.
    Uninstall(uninstall::UninstallArgs),
    /// Say by the exit code whether the agent of this pod is ready.
    Ready(ready::ReadyArgs),
}

/// Options of the commands that ask a running agent.
#[derive(Clone, Debug, Args)]
pub struct Query {
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// The agent's run directory.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,
    /// The agent to ask.
    #[command(flatten)]
    pub remote: remote::RemoteArgs,
}

/// Why a command failed, in one sentence for the person who gave it.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The agent could not be asked.
    #[error(transparent)]
    Agent(#[from] ClientError),
    /// The agent of another node could not be asked.
    #[error(transparent)]
    Remote(#[from] remote::RemoteError),
    /// The pins could not be removed.
    #[error(transparent)]
    Clean(#[from] clean::CleanError),
    /// The pod cannot be probed.
    #[error(transparent)]
    Probe(#[from] probe::ProbeError),
    /// The authority could not do it.
    #[error(transparent)]
    Ca(#[from] ca::CaCommandError),
    /// The question is none.
    #[error(transparent)]
    Question(#[from] crate::explain::QueryError),
    /// The policies could not be looked at.
    #[error(transparent)]
    Policy(#[from] policy::PolicyError),
    /// The agent of this pod is not ready.
    #[error(transparent)]
    NotReady(#[from] ready::NotReady),
    /// The mesh could not be brought into a cluster, out of it, or judged by it.
    #[error(transparent)]
    Cluster(Box<install::ClusterError>),
    /// Standard output is gone.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

impl Tool {
    /// Carries the command out, here or in the pod of the agent that is named. The exit code is
    /// 1 when `check`, `precheck` or `audit` found something missing, or `policy lint` something
    /// wrong.
    ///
    /// # Errors
    /// See [`CliError`].
    pub async fn run(&self) -> Result<ExitCode, CliError> {
        if let Some((place, words)) = self.forwarded() {
            return Ok(remote::run(&place, words).await?);
        }
        match self {
            Self::Status(query) => query.show("/status", status::render).await?,
            Self::Workloads(query) => {
                query
                    .show("/workloads", |all: &Vec<_>| workloads::render(all))
                    .await?;
            }
            Self::Connections(query) => {
                query
                    .show("/connections", |all: &Vec<_>| connections::render(all))
                    .await?;
            }
            Self::Explain(args) => args.run().await?,
            Self::Flows(query) => {
                query
                    .show("/flows", |all: &Vec<_>| flows::render(all))
                    .await?;
            }
            Self::Policy(args) => return args.run().await,
            Self::Problems(query) => {
                query
                    .show("/problems", |all: &Vec<_>| status::render_problems(all))
                    .await?;
            }
            Self::Audit(args) => return audit::run(args).await,
            Self::Probe(args) => probe::run(args)?,
            Self::Check(args) => return Ok(check::run(args)?),
            Self::Precheck(args) => return precheck::run(args).await,
            Self::Install(args) => return install::run(args).await,
            Self::Uninstall(args) => return uninstall::run(args).await,
            Self::Ready(args) => ready::run(args).await?,
            Self::Ca(args) => output::print(args.run().await?.as_bytes())?,
            Self::Clean(args) => output::print(clean::clean(args).await?.as_bytes())?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Query {
    /// Asks for `path` and prints the answer, as it came or as a table.
    async fn show<T: DeserializeOwned>(
        &self,
        path: &str,
        table: fn(&T) -> String,
    ) -> Result<(), CliError> {
        self.ask(path, table).await.map(drop)
    }

    /// As [`Query::show`], and returns the answer.
    async fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        table: fn(&T) -> String,
    ) -> Result<T, CliError> {
        let answer = client::get_raw(&self.run_dir, path).await?;
        // Parsed for JSON too, so that an agent of another version is noticed either way.
        let parsed: T = serde_json::from_slice(&answer).map_err(ClientError::Answer)?;
        match self.output {
            Format::Table => output::print(table(&parsed).as_bytes())?,
            Format::Json => output::print_json(&answer)?,
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests;
