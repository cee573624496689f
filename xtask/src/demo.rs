//! `cargo xtask demo`: builds, then becomes the program that shows the mesh.

use std::time::Instant;

use anyhow::Result;

use crate::command::Run;
use crate::{apt, build};

/// What the demo runs; bpftool is for looking around in one that is kept.
const TOOLS: &[apt::Need] = &[
    ("ip", "iproute2"),
    ("nginx", "nginx-light"),
    ("curl", "curl"),
    ("bpftool", "bpftool"),
];

pub(crate) fn run(keep: bool, clean: bool) -> Result<()> {
    crate::require_root()?;
    if clean {
        // Needs neither the agent nor the kernel programs.
        build::cargo("build --quiet --package isthmus-tests --bin demo").show()?;
        return Run::new(crate::target().join("debug/demo"))
            .arg("--clean")
            .replace();
    }
    apt::ensure_all("the demo", TOOLS)?;
    println!("Building the kernel programs, the agent and the demo, without optimisations.");
    let start = Instant::now();
    let folder = build::everything(false)?;
    println!("That took {} s.\n", start.elapsed().as_secs());
    let mut demo = Run::new(folder.join("demo"));
    if keep {
        demo = demo.arg("--keep");
    }
    demo.replace()
}
