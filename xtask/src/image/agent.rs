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
    let image = Image {
        name: &format!("{NAME}:{}", env!("CARGO_PKG_VERSION")),
        entrypoint: &["/mesh-agent"],
        user: "",
        architecture: arch.oci(),
    };
    image.pack(root.path(), archive)?;
    std::fs::remove_dir_all(root.path()).context("removing what was packed")
}

/// Static, since there is nothing else in the image, and since the CNI plugin must run on any
/// node. The target is named so that flags reach neither build scripts nor macros.
fn compile(object: &Path, arch: Arch, dev: bool) -> Result<PathBuf> {
    let tools = arch.tools();
    if !tools.is_empty() {
        cross_tools(arch)?;
    }
    let folder = crate::target().join("image");
    let mut cargo = Run::new("cargo")
        .words("build --package mesh-agent --bin mesh-agent --target")
        .arg(arch.target())
        .arg("--target-dir")
        .arg(&folder)
        .env(build::OBJECT, object)
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    if !dev {
        cargo = cargo.arg("--release");
    }
    if !tools.is_empty() {
        let target = arch.target().replace('-', "_");
        let linker = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase());
        cargo = cargo
            .env(&linker, format!("{tools}gcc"))
            .env(&format!("CC_{target}"), format!("{tools}gcc"))
            .env(&format!("CXX_{target}"), format!("{tools}g++"));
    }
    cargo.show()?;
    let profile = if dev { "debug" } else { "release" };
    Ok(folder.join(arch.target()).join(profile).join("mesh-agent"))
}

/// A compiler for the other processor, and the standard library that goes with it.
fn cross_tools(arch: Arch) -> Result<()> {
    let (processor, _) = arch.tools().split_once('-').unwrap_or_default();
    let processor = processor.replace('_', "-");
    if !exists(&format!("{}g++", arch.tools())) {
        let libc = format!("libc6-dev-{}-cross", arch.oci());
        let compiler = format!("g++-{processor}-linux-gnu");
        apt::install("an image for another processor", &[&compiler, &libc])?;
    }
    arm64::standard_library(arch.target())
}
