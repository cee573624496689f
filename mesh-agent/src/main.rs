//! The `mesh-agent` binary: parses the command line, installs the log, and hands over
//! to the agent or to one of the tools.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use mesh_agent::cli::{
    Cli, Command, Tool,
    run::{RunArgs, RunOptions},
};
use mesh_agent::observe::logging::{self, LogQueue};

/// Time for the last log lines to be written before the process ends.
const LOG_FLUSH: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => agent(args),
        Command::Tool(tool) => report(use_tool(&tool)),
    }
}

fn agent(args: RunArgs) -> ExitCode {
    let log = match logging::install(args.log_format) {
        Ok(log) => log,
        Err(error) => return report(Err(error.into())),
    };
    let ended = args
        .resolve()
        .map_err(Into::into)
        .and_then(|options| run(options, &log));
    if let Err(error) = &ended {
        tracing::error!(%error, "the agent stops");
    }
    log.flush(LOG_FLUSH);
    if ended.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs the agent until it is told to stop.
fn run(options: RunOptions, _log: &LogQueue) -> anyhow::Result<()> {
    anyhow::bail!(
        "the agent for {} is not part of this build yet",
        options.config.display()
    )
}

fn use_tool(tool: &Tool) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| anyhow::anyhow!("cannot start the runtime: {error}"))?;
    Ok(runtime.block_on(tool.run())?)
}

fn report(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        // Each error's own text names its cause.
        eprintln!("mesh-agent: {error}");
        ExitCode::FAILURE
    })
}
