//! The bench: first figures of the mesh against plain TCP between the same two nodes, in one
//! run. `cargo xtask bench` builds (optimised) and runs it.
//!
//! The same program is the server and the client of each measurement, inside the pods. Like the
//! demo it runs once more around all that, to remove what was made ([`supervisor`]).

mod load;
mod rounds;
mod server;
mod table;

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use isthmus_tests::supervisor::{self, Claim, End};
use isthmus_tests::{leftovers, report};

#[derive(Parser)]
#[command(name = "bench", about = "Measures the mesh against plain TCP")]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    plan: rounds::Plan,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// The inner of the two runs
    #[command(hide = true)]
    Measure(rounds::Plan),
    /// The server of all measurements
    #[command(hide = true)]
    Serve,
    /// The client of one measurement
    #[command(hide = true)]
    Load(load::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.part {
        None => around(&arguments.plan),
        Some(Part::Measure(plan)) => measure(&plan).map(|()| 0),
        Some(Part::Serve) => server::run().map(|()| 0),
        Some(Part::Load(options)) => load::run(&options).map(|()| 0),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn around(plan: &rounds::Plan) -> Result<u8> {
    let _claim = Claim::take(&plan.world).context("the bench cannot run now")?;
    leftovers::remove_world(&plan.world)?;
    let mut inner = Command::new(std::env::current_exe()?);
    inner.arg("measure").args(plan.as_arguments());
    let end = supervisor::run(inner)?;
    leftovers::remove_world(&plan.world)?;
    if let End::Interrupted(signal) = end {
        eprintln!("\nbench: interrupted by {signal}; everything was removed");
    }
    Ok(end.code())
}

fn measure(plan: &rounds::Plan) -> Result<()> {
    supervisor::detach()?;
    report::silence();
    let results = rounds::run(plan)?;
    table::print(&results, plan)
}
