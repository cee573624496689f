//! `mesh-agent policy`: tries policies out, and checks them, before they are in force.

mod lint;
mod simulate;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::remote::RemoteArgs;
use super::{CliError, DEFAULT_RUN_DIR, Format, output};
use crate::config::{ConfigError, read_folder};
use crate::model::Severity;

/// Options of `mesh-agent policy`.
#[derive(Clone, Debug, Args)]
pub struct PolicyArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: PolicyCommand,
}

/// The commands of `mesh-agent policy`.
#[derive(Clone, Debug, Subcommand)]
pub enum PolicyCommand {
    /// Judge the flows that were recorded by the configuration in a folder.
    Simulate(SimulateArgs),
    /// Check the configuration in a folder, without an agent.
    Lint(LintArgs),
}

/// Options of `mesh-agent policy simulate`.
#[derive(Clone, Debug, Args)]
pub struct SimulateArgs {
    /// The candidate configuration, whole.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Flows saved by `mesh-agent flows -o json`; several times for several nodes
    /// [default: those of the running agent].
    #[arg(long, value_name = "FILE")]
    pub flows: Vec<PathBuf>,
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// The agent's run directory.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,
    /// The agent whose flows are taken.
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// Options of `mesh-agent policy lint`.
#[derive(Clone, Debug, Args)]
pub struct LintArgs {
    /// The configuration.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Exit with 1 on warnings too.
    #[arg(long)]
    pub strict: bool,
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// Why policies could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The folder is not there.
    #[error(transparent)]
    Folder(#[from] ConfigError),
    /// A file of flows is not there.
    #[error("cannot read the flows in {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of flows holds something else.
    #[error("{} holds no flows: {source}; save them by `mesh-agent flows -o json`", path.display())]
    Flows {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
}

impl PolicyArgs {
    pub(super) async fn run(&self) -> Result<ExitCode, CliError> {
        match &self.command {
            PolicyCommand::Lint(args) => args.run(),
            PolicyCommand::Simulate(args) => args.run().await.map(|()| ExitCode::SUCCESS),
        }
    }
}

impl LintArgs {
    fn run(&self) -> Result<ExitCode, CliError> {
        let folder = read_folder(&self.dir).map_err(PolicyError::from)?;
        let found = crate::lint::lint(&folder);
        match self.output {
            Format::Table => output::print(lint::render(&found).as_bytes())?,
            Format::Json => output::print_json(&lint::json(&found).map_err(io::Error::from)?)?,
        }
        let fails = |severity| severity == Severity::Error || self.strict;
        Ok(match found.iter().any(|it| fails(it.severity)) {
            true => ExitCode::FAILURE,
            false => ExitCode::SUCCESS,
        })
    }
}

#[cfg(test)]
mod tests;
