//! `cargo xtask kernels`: the core of the privileged tests on real kernels of Debian, booted
//! under software emulation with a root folder that holds what the tests need.

mod boot;
mod image;

use anyhow::{Context, Result};

use crate::command::Run;
use crate::phases::{Counted, Tally};
use crate::{apt, build};

/// A headline, and the package that depends on the newest kernel of its series.
const KERNELS: [(&str, &str); 2] = [
    ("Linux 6.1", "linux-image-cloud-amd64"),
    ("Linux 6.12", "linux-image-6.12-cloud-amd64"),
];

/// What names of tests begin with that must hold on every kernel.
pub(crate) const CORE: &str = "core_";

/// The command on its own: builds first.
pub(crate) fn command(name: &str) -> Result<()> {
    crate::require_root()?;
    build::everything(false)?;
    let mut tally = Tally::default();
    phases(&mut tally, name);
    tally.close()
}

/// One phase a kernel; the programs must be built.
pub(crate) fn phases(tally: &mut Tally, tests: &str) {
    for (name, package) in KERNELS {
        tally.counting(name, |counted| run(package, tests, counted));
    }
}

fn run(package: &str, tests: &str, counted: &mut Counted) -> Result<()> {
    apt::ensure_all("other kernels", apt::KERNEL_TOOLS)?;
    let kernel = image::kernel(package)?;
    let root = image::root(&kernel, &test_binary()?, tests)?;
    boot::boot(&kernel, &root, counted)
}

/// The path of the built privileged tests, as cargo tells it.
fn test_binary() -> Result<std::path::PathBuf> {
    let object = crate::root().join("mesh-ebpf/target/bpfel-unknown-none/release/mesh-ebpf");
    let messages = Run::new("cargo")
        .words(
            "test --package isthmus-tests --test mesh --no-run --message-format json --target-dir",
        )
        .arg(crate::target())
        .env(build::OBJECT, object)
        .output()?;
    // One JSON object a line; the tools of the tests are among them.
    messages
        .lines()
        .filter(|line| line.contains("\"kind\":[\"test\"]"))
        .filter_map(|line| line.split_once("\"executable\":\"")?.1.split('"').next())
        .next_back()
        .map(Into::into)
        .context("cargo named no test binary")
}
