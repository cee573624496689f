//! The bench of scale: one agent against an API server that holds a large cluster's objects.
//! `cargo xtask bench scale` builds it (optimised), brings up the API server and runs this beside
//! it, in its network namespace.
//!
//! No kubelet looks at the objects; one pod is real, so that a change can be seen to take effect.

mod api;
mod bed;
mod fill;
mod measure;
mod measured;
mod objects;
mod relay;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use isthmus_tests::leftovers;

#[derive(Parser)]
#[command(name = "scale", about = "Measures one agent in a large cluster")]
struct Arguments {
    /// Sizes of the cluster, in pods, ascending
    #[arg(long, value_delimiter = ',', required = true)]
    pods: Vec<u32>,
    /// Services of the largest
    #[arg(long)]
    services: u32,
    /// The control plane's folder
    #[arg(long)]
    cluster: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scale: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    leftovers::sweep();
    let sizes = &arguments.pods;
    ensure!(
        sizes.is_sorted() && sizes.iter().all(|size| (100..=200_000).contains(size)),
        "--pods: give ascending numbers from 100 to 200000"
    );
    let largest = *sizes.last().context("--pods names no size")?;
    let api = api::Api::open(&arguments.cluster).await?;
    let bed = bed::Bed::create(&api).await?;
    let mut filled = fill::Filled::default();
    let mut rows = Vec::new();
    for pods in sizes {
        let services = u64::from(arguments.services) * u64::from(*pods) / u64::from(largest);
        filled
            .fill(&api, *pods, u32::try_from(services)?.max(1))
            .await?;
        let row = measure::measure(&api, &bed, &filled).await;
        rows.push(row.with_context(|| format!("measuring with {pods} pods"))?);
        print!("{}", table::of(&rows));
    }
    Ok(())
}
