//! What differs between the processors whose kernels are booted: the emulator, Debian's
//! packages for it, and how the programs of the guest are built.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::image::{clear, entries};
use crate::apt::{self, Need};
use crate::command::Run;
use crate::image::agent::{self, Arch};
use crate::{arm64, build};

/// A processor that the emulator knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Processor {
    Amd64,
    Arm64,
}

/// The programs of a guest.
pub(super) struct Programs {
    /// The privileged tests.
    pub(super) tests: PathBuf,
    /// The agent. For arm64 it is the one in the image, which nothing else here can run.
    pub(super) agent: PathBuf,
    /// The tool of the tests.
    pub(super) traffic: PathBuf,
    /// For arm64, a root folder with the libraries and tools of Debian.
    pub(super) system: Option<PathBuf>,
}

/// For the machine's own processor.
const AMD64: &[Need] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("ip", "iproute2"),
    ("ss", "iproute2"),
    ("bpftool", "bpftool"),
    ("strip", "binutils"),
    ("xz", "xz-utils"),
];

const ARM64: &[Need] = &[
    ("qemu-system-aarch64", "qemu-system-arm"),
    ("aarch64-linux-gnu-strip", "binutils-aarch64-linux-gnu"),
];

/// Tools that the tests call; their libraries come with them.
const ARM64_PACKAGES: [&str; 3] = ["busybox-static", "iproute2", "bpftool"];

impl Processor {
    /// The emulator's program and machine. No model newer than the kernels, or emulating its
    /// extensions (pointer authentication above all) takes most of the time.
    pub(super) fn emulator(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-system-x86_64 -cpu max -vga none",
            Self::Arm64 => "qemu-system-aarch64 -machine virt -cpu cortex-a72",
        }
    }

    pub(super) fn console(self) -> &'static str {
        match self {
            Self::Amd64 => "ttyS0",
            Self::Arm64 => "ttyAMA0",
        }
    }

    pub(super) fn strip(self) -> &'static str {
        match self {
            Self::Amd64 => "strip",
            Self::Arm64 => "aarch64-linux-gnu-strip",
        }
    }

    /// Installs what emulating it needs.
    pub(super) fn tools(self) -> Result<()> {
        apt::ensure_all("other kernels", AMD64)?;
        match self {
            Self::Amd64 => Ok(()),
            Self::Arm64 => {
                apt::ensure_all("kernels of arm64", ARM64)?;
                arm64::tools()
            }
        }
    }

    /// Debian's packages for it, by a tool of apt's (`apt-get`, `apt-cache`). Those of another
    /// processor are asked for with lists of their own, so that the machine's settings stay.
    pub(super) fn apt(self, tool: &str) -> Run {
        let run = Run::new(tool);
        match self {
            Self::Amd64 => run,
            Self::Arm64 => foreign_settings()
                .into_iter()
                .fold(run, |run, setting| run.arg("-o").arg(setting)),
        }
    }

    /// Brings the lists of its packages up to date.
    pub(super) fn update(self) -> Result<()> {
        match self {
            Self::Amd64 => apt::update(),
            Self::Arm64 => {
                for folder in ["lists/partial", "cache/archives/partial"] {
                    fs::create_dir_all(foreign().join(folder))?;
                }
                fs::write(foreign().join("status"), "")?;
                let update = self.apt("apt-get").words("-qq update").output();
                update
                    .map(drop)
                    .context("apt-get update for arm64 failed: is the network up?")
            }
        }
    }

    /// Builds the programs of the guest, with the built `object` of the kernel programs.
    pub(super) fn programs(self, object: &Path) -> Result<Programs> {
        let cargo = |words: &str| match self {
            Self::Amd64 => build::cargo(words).env(build::OBJECT, object),
            Self::Arm64 => agent::cargo(Arch::Arm64, words).env(build::OBJECT, object),
        };
        cargo("build --quiet --package mesh-agent --package isthmus-tests --bins").show()?;
        let folder = match self {
            Self::Amd64 => crate::target().join("debug"),
            Self::Arm64 => agent::programs(Arch::Arm64, true),
        };
        Ok(Programs {
            tests: test_binary(cargo)?,
            agent: match self {
                Self::Amd64 => folder.join("mesh-agent"),
                Self::Arm64 => image(object)?,
            },
            traffic: folder.join("traffic"),
            system: match self {
                Self::Amd64 => None,
                Self::Arm64 => Some(foreign_system()?),
            },
        })
    }
}

/// Packs the image for arm64, and gives the program that is in the archive.
fn image(object: &Path) -> Result<PathBuf> {
    let archive = foreign().join("mesh-agent.tar");
    agent::pack(object, Arch::Arm64, true, &archive)?;
    let root = foreign().join("image");
    crate::image::unpack(&archive, &root)?;
    Ok(root.join("mesh-agent"))
}

/// The path of the built privileged tests, as cargo tells it.
fn test_binary(cargo: impl Fn(&str) -> Run) -> Result<PathBuf> {
    let words = "test --package isthmus-tests --test mesh --no-run --message-format json";
    // One JSON object a line; the tools of the tests are among them.
    cargo(words)
        .output()?
        .lines()
        .filter(|line| line.contains("\"kind\":[\"test\"]"))
        .filter_map(|line| line.split_once("\"executable\":\"")?.1.split('"').next())
        .next_back()
        .map(Into::into)
        .context("cargo named no test binary")
}

fn foreign() -> PathBuf {
    crate::target().join("kernels/arm64")
}

fn foreign_settings() -> Vec<String> {
    let place = |name: &str| foreign().join(name).display().to_string();
    vec![
        "APT::Architecture=arm64".to_owned(),
        "APT::Architectures=arm64".to_owned(),
        // The folders are ours, and may lie where apt's own user cannot go.
        "APT::Sandbox::User=root".to_owned(),
        format!("Dir::State::Lists={}", place("lists")),
        format!("Dir::State::status={}", place("status")),
        format!("Dir::Cache={}", place("cache")),
    ]
}

/// A root folder with the tools, and all libraries that any of them may load.
fn foreign_system() -> Result<PathBuf> {
    let folder = foreign().join("system");
    if folder.exists() {
        return Ok(folder);
    }
    println!("Fetching tools and libraries for arm64");
    Processor::Arm64.update()?;
    let depends = Processor::Arm64
        .apt("apt-cache")
        .words("depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances")
        .words(&ARM64_PACKAGES.join(" "))
        .output()?;
    let libraries = depends
        .lines()
        .filter(|line| line.starts_with("lib") || line.starts_with("zlib"));
    let (archives, partial) = (foreign().join("archives"), foreign().join("system.partial"));
    clear(&archives)?;
    clear(&partial)?;
    ARM64_PACKAGES
        .into_iter()
        .chain(libraries)
        .fold(
            Processor::Arm64
                .apt("apt-get")
                .words("-qq download")
                .folder(&archives),
            Run::arg,
        )
        .output()
        .context("fetching packages for arm64: is the network up?")?;
    for package in entries(&archives)? {
        Run::new("dpkg-deb")
            .arg("-x")
            .arg(package)
            .arg(&partial)
            .output()?;
    }
    fs::rename(&partial, &folder).context("keeping the system for arm64")?;
    Ok(folder)
}
