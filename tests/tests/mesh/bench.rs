//! The bench as a user runs it, short. What it measures is nobody's business here.

use std::process::Command;

use anyhow::{Result, ensure};
use isthmus_tests::leftovers::{unique_name, world_exists};
use isthmus_tests::process::{own_program, run};

#[test]
fn bench_measures_everything_and_leaves_nothing() -> Result<()> {
    let world = unique_name();
    let mut bench = Command::new(own_program("bench")?);
    bench.args(["--rounds", "1", "--millis", "50", "--world", &world]);
    let text = run(bench)?.success()?;
    for (what, quantities) in [
        ("throughput", 2),
        ("echo of 64 bytes", 2),
        ("new connections", 2),
    ] {
        let rows = text
            .lines()
            .filter(|line| line.starts_with(what))
            .map(figures);
        let rows: Vec<_> = rows.collect();
        ensure!(
            rows.len() == quantities && rows.iter().all(|row| row.iter().all(|f| f.is_finite())),
            "{what}: {rows:?} in\n{text}"
        );
    }
    ensure!(
        text.contains("Failed connections: 0 over plain TCP, 0 over the mesh."),
        "{text}"
    );
    ensure!(!world_exists(&world)?, "{world} is still there");
    Ok(())
}

/// The last three words of a row: plain, mesh, ratio. What is no number is NaN.
fn figures(row: &str) -> Vec<f64> {
    row.split_whitespace()
        .rev()
        .take(3)
        .map(|word| word.parse().unwrap_or(f64::NAN))
        .collect()
}
