//! `cargo xtask build`: the kernel programs, and the agent that carries them.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::command::Run;
use crate::{fips, toolchain};

/// The variable by which the agent's build script finds the object to embed.
pub(crate) const OBJECT: &str = "ISTHMUS_EBPF_OBJECT";

/// The agent alone, on the FIPS module of its cryptography library.
pub(crate) fn fips(release: bool) -> Result<()> {
    fips::tools()?;
    let object = kernel_programs()?;
    let folder = crate::target().join("fips");
    let mut cargo = Run::new("cargo")
        .words("build --package mesh-agent --bins --features fips --target-dir")
        .arg(&folder)
        .env(OBJECT, object);
    if release {
        cargo = cargo.arg("--release");
    }
    cargo.show()?;
    let profile = if release { "release" } else { "debug" };
    println!("Built {}", shown(&folder.join(profile).join("mesh-agent")));
    Ok(())
}

/// Builds all, and gives the folder in which the programs lie.
pub(crate) fn everything(release: bool) -> Result<PathBuf> {
    let object = kernel_programs()?;
    let folder = userspace(&object, release)?;
    println!(
        "Built {} and {}",
        shown(&object),
        shown(&folder.join("mesh-agent"))
    );
    Ok(folder)
}

/// Builds the kernel programs, and gives the path of their object.
pub(crate) fn kernel_programs() -> Result<PathBuf> {
    let folder = crate::root().join("mesh-ebpf");
    toolchain::Kernel::choose()?
        .cargo("build --release")
        .folder(&folder)
        .show()?;
    let object = folder.join("target/bpfel-unknown-none/release/mesh-ebpf");
    ensure!(
        object.is_file(),
        "the kernel programs were built, but {} is not there",
        object.display()
    );
    Ok(object)
}

/// Builds the agent and the tools of the tests, and gives the folder in which they lie.
pub(crate) fn userspace(object: &Path, release: bool) -> Result<PathBuf> {
    let mut cargo =
        cargo("build --package mesh-agent --package isthmus-tests --bins").env(OBJECT, object);
    if release {
        cargo = cargo.arg("--release");
    }
    cargo.show()?;
    Ok(crate::target().join(if release { "release" } else { "debug" }))
}

/// The pinned cargo, for everything but the kernel programs.
pub(crate) fn cargo(words: &str) -> Run {
    Run::new("cargo")
        .words(words)
        .arg("--target-dir")
        .arg(crate::target())
}

fn shown(path: &Path) -> String {
    path.strip_prefix(crate::root())
        .unwrap_or(path)
        .display()
        .to_string()
}
