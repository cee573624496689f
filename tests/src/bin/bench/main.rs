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

/// What all parts of the bench are called.
const WORLD: &str = "isthmus-bench";

#[derive(Parser)]
#[command(name = "bench", about = "Measures the mesh against plain TCP")]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// The inner of the two runs
    #[command(hide = true)]
    Measure,
    /// The server of all measurements
    #[command(hide = true)]
    Serve,
    /// The client of one measurement
    #[command(hide = true)]
    Load(load::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().part {
        None => around(),
        Some(Part::Measure) => measure().map(|()| 0),
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

fn around() -> Result<u8> {
    let _claim = Claim::take(WORLD).context("the bench cannot run now")?;
    leftovers::remove_world(WORLD)?;
    let mut inner = Command::new(std::env::current_exe()?);
    inner.arg("measure");
    let end = supervisor::run(inner)?;
    leftovers::remove_world(WORLD)?;
    if let End::Interrupted(_) = end {
        eprintln!("\nbench: interrupted; everything was removed");
    }
    Ok(end.code())
}

fn measure() -> Result<()> {
    supervisor::detach()?;
    report::silence();
    let results = rounds::run(WORLD)?;
    table::print(&results)
}
