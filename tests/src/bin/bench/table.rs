//! The table of results: medians over the rounds, and how the mesh compares.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::load::{Kind, Measured};
use crate::rounds::{MEASUREMENTS, Measurement, Plan, Results};

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

/// Prints it, with what there is to know about the machine. `results` stand in the order of
/// [`MEASUREMENTS`].
pub(crate) fn print(results: &[Results], plan: &Plan) -> Result<()> {
    let (kernel, load) = (proc("sys/kernel/osrelease")?, proc("loadavg")?);
    let load = load.split(' ').next().unwrap_or_default();
    let cores = std::thread::available_parallelism()?;
    println!(
        "\nThe mesh against plain TCP, IPv4, pod to pod over one bridge, STRICT. Both nodes, all clients\n\
         and all servers share this machine: Linux {kernel}, {cores} cores, load average {load}.\n\
         Medians of {} rounds of {} ms, taken in turn.\n",
        plan.rounds, plan.millis
    );
    if cfg!(debug_assertions) {
        println!("This is a build without optimisations: its figures say nothing.\n");
    }
    println!(
        "{:<50} {:>12} {:>12} {:>12}",
        "", "plain TCP", "mesh (mTLS)", "mesh / plain"
    );
    for (measurement, results) in MEASUREMENTS.iter().zip(results) {
        for (name, value) in quantities(measurement) {
            let plain = median(&results.plain, value);
            let mesh = median(&results.mesh, value);
            println!(
                "{name:<50} {plain:>12.2} {mesh:>12.2} {:>12.2}",
                mesh / plain
            );
        }
    }
    let errors = |side: fn(&Results) -> &[Measured]| -> u64 {
        let all = results.iter().flat_map(side);
        all.map(|measured| measured.errors).sum()
    };
    println!(
        "\nFailed connections: {} over plain TCP, {} over the mesh.",
        errors(|results| &results.plain),
        errors(|results| &results.mesh)
    );
    Ok(())
}

/// What a file of /proc says.
fn proc(file: &str) -> Result<String> {
    let path = Path::new("/proc").join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(text.trim().to_owned())
}

type Value = fn(&Measured) -> f64;

/// What a measurement has to say: each with its unit.
fn quantities(measurement: &Measurement) -> Vec<(String, Value)> {
    let threads = measurement.threads;
    match measurement.kind {
        Kind::Throughput => vec![(
            format!("throughput, {}, GiB/s", counted(threads, "stream")),
            |measured| measured.per_second / GIB,
        )],
        Kind::Latency => vec![
            (
                "echo of 64 bytes, median, µs (less is better)".to_owned(),
                |m| m.p50_us,
            ),
            (
                "echo of 64 bytes, 99th perc., µs (less is better)".to_owned(),
                |m| m.p99_us,
            ),
        ],
        Kind::Connections => vec![(
            format!("new connections, {}, 1/s", counted(threads, "client")),
            |measured| measured.per_second,
        )],
    }
}

fn counted(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn median(all: &[Measured], value: Value) -> f64 {
    let mut values: Vec<_> = all.iter().map(value).collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
