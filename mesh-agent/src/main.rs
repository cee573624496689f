//! The `mesh-agent` binary: parses the command line, installs the log, and hands over
//! to the agent or to one of the tools.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use mesh_agent::agent;
use mesh_agent::cli::run::RunArgs;
use mesh_agent::cli::{Cli, Command, Tool, cni};
use mesh_agent::coredump;
use mesh_agent::heap;
use mesh_agent::observe::logging::{self, LogQueue};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Threads beside those that carry traffic: configuration, certificates, admin.
const CONTROL_THREADS: usize = 2;

/// Time for the last log lines to be written before the process ends.
const LOG_FLUSH: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    heap::prepare();
    if let Err(error) = coredump::forbid() {
        eprintln!(
            "mesh-agent: cores of this process, with keys in them, cannot be forbidden: {error}"
        );
        return ExitCode::FAILURE;
    }
    if cni::is_called(std::env::args_os()) {
        return cni::run();
    }
    let command = match Cli::parse().resolve() {
        Ok(command) => command,
        Err(error) => return report(Err(error.into())),
    };
    match command {
        Command::Run(args) => agent(*args),
        Command::Cni(_) => cni::run(),
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

/// Runs the agent until SIGTERM or SIGINT; a second one ends it without draining.
fn run(options: agent::Options, log: &LogQueue) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let (stop, stopped) = watch::channel(false);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut told = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let agent = agent::run(options, log, stopped);
        let mut agent = std::pin::pin!(agent);
        tokio::select! {
            ended = &mut agent => return Ok(ended?),
            () = told() => stop.send_replace(true),
        };
        tokio::select! {
            ended = agent => Ok(ended?),
            () = told() => anyhow::bail!("told to stop a second time: open connections are cut"),
        }
    })
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
