//! `cargo xtask bench`: builds with optimisations, then becomes the program that measures.

use anyhow::Result;

use crate::command::Run;
use crate::{apt, build};

const TOOLS: &[apt::Need] = &[("ip", "iproute2")];

pub(crate) fn run() -> Result<()> {
    crate::require_root()?;
    apt::ensure_all("the bench", TOOLS)?;
    println!("Building the kernel programs, the agent and the bench, with optimisations.");
    Run::new(build::everything(true)?.join("bench")).replace()
}
