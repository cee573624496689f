//! `cargo xtask image`: the image of the product. It holds one file, the statically linked
//! `mesh-agent`, which is the agent, the authority and the CNI plugin.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::{Image, Root};
use crate::command::{Run, exists};
use crate::{apt, arm64, build};

/// As the manifests in `deploy` name it.
const NAME: &str = "docker.io/isthmus/mesh-agent";

/// A processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    fn oci(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// What the names of its compiler and its tools begin with; nothing for this machine's own.
    fn tools(self) -> &'static str {
        match (self, std::env::consts::ARCH) {
            (Self::Amd64, "x86_64") | (Self::Arm64, "aarch64") => "",
            (Self::Amd64, _) => "x86_64-linux-gnu-",
            (Self::Arm64, _) => "aarch64-linux-gnu-",
        }
    }
}

/// The command: builds all, and says where the archive is.
pub(crate) fn command(arch: Arch, dev: bool, output: Option<PathBuf>) -> Result<()> {
    let output = output.unwrap_or_else(|| archive(arch));
    let object = build::kernel_programs()?;
    pack(&object, arch, dev, &output)?;
    println!(
        "Wrote {}; `docker load` and `ctr images import` take it",
        output.display()
    );
    Ok(())
}

/// Where the archive goes unless told otherwise.
pub(crate) fn archive(arch: Arch) -> PathBuf {
    crate::target().join(format!("images/mesh-agent-{}.tar", arch.oci()))
}

/// Builds the agent around the kernel programs, and packs it. `dev` leaves out optimisation.
pub(crate) fn pack(object: &Path, arch: Arch, dev: bool, archive: &Path) -> Result<()> {
    let binary = compile(object, arch, dev)?;
    let folder = archive.parent().context("an archive lies in a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let root = Root::create(&archive.with_extension("root"))?;
    root.stripped(&format!("{}strip", arch.tools()), &binary, "mesh-agent")?;
    // On the PATH, for `kubectl exec POD -- mesh-agent status`. The manifests name the other.
    root.link(Path::new("/mesh-agent"), "usr/bin/mesh-agent")?;
    let image = Image {
        name: &format!("{NAME}:{}", env!("CARGO_PKG_VERSION")),
        entrypoint: &["/mesh-agent"],
        user: "",
        architecture: arch.oci(),
    };
    image.pack(root.path(), archive)?;
    std::fs::remove_dir_all(root.path()).context("removing what was packed")
}

fn compile(object: &Path, arch: Arch, dev: bool) -> Result<PathBuf> {
    if !arch.tools().is_empty() {
        cross_tools(arch)?;
    }
    let mut cargo = cargo(arch, "build --package mesh-agent --bin mesh-agent");
    if !dev {
        cargo = cargo.arg("--release");
    }
    cargo.env(build::OBJECT, object).show()?;
    Ok(programs(arch, dev).join("mesh-agent"))
}

/// Cargo for images: what it builds is static, since there is nothing else in the agent's, and
/// since the CNI plugin must run on any node. The target is named so that flags reach neither
/// build scripts nor macros.
pub(crate) fn cargo(arch: Arch, words: &str) -> Run {
    let cargo = Run::new("cargo")
        .words(words)
        .arg("--target")
        .arg(arch.target())
        .arg("--target-dir")
        .arg(folder())
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    if arch.tools().is_empty() {
        return cargo;
    }
    let target = arch.target().replace('-', "_");
    let compiler = format!("{}gcc", arch.tools());
    let linker = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase());
    cargo
        .env(&linker, &compiler)
        .env(&format!("CC_{target}"), &compiler)
}

/// Where the programs lie that [`cargo`] builds.
pub(crate) fn programs(arch: Arch, dev: bool) -> PathBuf {
    let profile = if dev { "debug" } else { "release" };
    folder().join(arch.target()).join(profile)
}

fn folder() -> PathBuf {
    crate::target().join("image")
}

/// A compiler for the other processor, and the standard library that goes with it.
fn cross_tools(arch: Arch) -> Result<()> {
    if arch == Arch::Arm64 {
        return arm64::tools();
    }
    if !exists(&format!("{}gcc", arch.tools())) {
        let packages = ["gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"];
        apt::install("an image for another processor", &packages)?;
    }
    arm64::standard_library(arch.target())
}
