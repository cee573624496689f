//! `cargo xtask bench`: builds with optimisations, then becomes the program that measures.

use anyhow::Result;

use crate::command::Run;
use crate::{apt, build};

/// What needs neither root nor kernel programs.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Part {
    /// The time of a verdict among 10 to 10,000 policies
    Policy,
}

const TOOLS: &[apt::Need] = &[("ip", "iproute2")];

pub(crate) fn run() -> Result<()> {
    crate::require_root()?;
    apt::ensure_all("the bench", TOOLS)?;
    println!("Building the kernel programs, the agent and the bench, with optimisations.");
    Run::new(build::everything(true)?.join("bench")).replace()
}

/// Measures the policy alone, optimised.
pub(crate) fn policy() -> Result<()> {
    let words = "run --release --package mesh-agent --example policy_bench";
    build::cargo(words).replace()
}
