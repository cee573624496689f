//! `cargo xtask kernels`: the core of the privileged tests on real kernels of Debian, booted
//! under software emulation with a root folder that holds what the tests need.

mod boot;
mod image;

use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};

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

/// One phase a kernel; the programs must be built. The kernels run beside each other, each
/// on one emulated processor.
pub(crate) fn phases(tally: &mut Tally, tests: &str) {
    let images = tally.check("other kernels", || {
        apt::ensure_all("other kernels", apt::KERNEL_TOOLS)?;
        let binary = test_binary()?;
        let image = |(name, package)| {
            let kernel = image::kernel(package)?;
            let root = image::root(&kernel, &binary, tests)?;
            Ok((name, kernel, root))
        };
        let images = KERNELS.into_iter().map(image);
        Ok((images.collect::<Result<Vec<_>>>()?, binary))
    });
    let Some((images, binary)) = images else {
        return;
    };
    println!(
        "\n=== booting {}",
        KERNELS.map(|(name, _)| name).join(" and ")
    );
    thread::scope(|scope| {
        let run = |(name, kernel, root): &(&str, image::Kernel, PathBuf)| {
            let start = Instant::now();
            let mut counted = Counted::default();
            let result = boot::boot(name, kernel, root, &mut counted).and_then(|()| {
                counted.second_look(|names| {
                    println!("{name} | once more, alone: {}", names.join(", "));
                    let arguments = format!("--exact {}", names.join(" "));
                    let root = image::root(kernel, &binary, &arguments)?;
                    let mut seen = Counted::default();
                    boot::boot(name, kernel, &root, &mut seen)?;
                    Ok(seen)
                })
            });
            (counted, result, start.elapsed())
        };
        let start = |image| scope.spawn(move || run(image));
        let running: Vec<_> = images.iter().map(start).collect();
        for ((name, ..), running) in images.iter().zip(running) {
            let mut unsteady = Vec::new();
            tally.counting(name, |counted| {
                let ended = running.join();
                let (seen, result, took) = ended.map_err(|_| anyhow!("its output was lost"))?;
                *counted = seen;
                println!("it ran for {:.1} s", took.as_secs_f64());
                unsteady = result?;
                Ok(())
            });
            tally.unsteady(unsteady.iter().map(|test| format!("{name}: {test}")));
        }
    });
}

/// The path of the built privileged tests, as cargo tells it.
fn test_binary() -> Result<PathBuf> {
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
