//! The project's own commands. `cargo xtask demo` and `cargo xtask test` need root and cargo,
//! and bring everything else themselves; each module says what it brings.

mod apt;
mod arm64;
mod bench;
mod build;
mod cluster;
mod command;
mod demo;
mod fips;
mod image;
mod kernels;
mod phases;
mod test;
mod toolchain;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Builds, shows and tests Isthmus",
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Set up the eBPF toolchain, build the kernel programs and the agent
    Build {
        /// With optimisations
        #[arg(long)]
        release: bool,
        /// The agent alone, on the FIPS module of its cryptography library, under target/fips
        #[arg(long)]
        fips: bool,
    },
    /// Show the mesh at work on this machine, with no cluster, and remove it again
    Demo {
        /// Leave it running and print the commands to look around
        #[arg(long, conflicts_with = "clean")]
        keep: bool,
        /// Remove what `--keep` left
        #[arg(long)]
        clean: bool,
    },
    /// Formatting, lints, unit tests, FIPS mode, privileged tests, and the core on other kernels; or one test
    Test {
        /// Run only tests whose names contain this
        name: Option<String>,
    },
    /// Run the core of the privileged tests on real Linux 6.1 and 6.12, and on arm64, under emulation
    Kernels {
        /// Run only tests whose names contain this
        #[arg(default_value = kernels::CORE)]
        name: String,
    },
    /// Build the agent with FIPS cryptography, and test TLS and its settings in that mode
    Fips,
    /// The container image of the agent, the authority and the CNI plugin, as an archive
    Image {
        /// For this processor
        #[arg(long, value_enum, default_value = "amd64")]
        arch: image::agent::Arch,
        /// Without optimisations
        #[arg(long)]
        dev: bool,
        /// Write it here
        #[arg(short, long)]
        output: Option<PathBuf>,
    },
    /// A real Kubernetes cluster of two nodes on this machine
    Cluster {
        #[command(subcommand)]
        task: cluster::Task,
    },
    /// First figures: throughput, latency and connections per second, against plain TCP
    Bench {
        #[command(subcommand)]
        part: Option<bench::Part>,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Build {
            release,
            fips: true,
        } => build::fips(release),
        Task::Build {
            release,
            fips: false,
        } => build::everything(release).map(drop),
        Task::Demo { keep, clean } => demo::run(keep, clean),
        Task::Test { name: Some(name) } => test::one(&name),
        Task::Test { name: None } => test::all(),
        Task::Kernels { name } => kernels::command(&name),
        Task::Fips => fips::command(),
        Task::Image { arch, dev, output } => image::agent::command(arch, dev, output),
        Task::Cluster { task } => cluster::run(task),
        Task::Bench { part: None } => bench::run(),
        Task::Bench {
            part: Some(bench::Part::Policy),
        } => bench::policy(),
        Task::Bench {
            part: Some(bench::Part::Scale { pods, services }),
        } => bench::scale(&pods, services),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// Where everything built goes, whatever `CARGO_TARGET_DIR` says.
fn target() -> PathBuf {
    root().join("target")
}

/// Refuses to go on without root, and says why it is needed.
fn require_root() -> Result<()> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "this needs root, for network namespaces, cgroups and eBPF: run it as root"
    );
    Ok(())
}
