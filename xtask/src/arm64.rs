//! What building for 64-bit ARM needs on a machine of another kind: Debian's cross compiler and
//! the standard library. Asked for by the emulated kernel of that processor and by the images.

use std::path::Path;

use anyhow::{Context, Result};

use crate::apt::{self, Need};
use crate::command::Run;

/// The compiler's name of it.
const TARGET: &str = "aarch64-unknown-linux-gnu";

/// Debian's names of the compiler and of a C library for it.
const TOOLS: &[Need] = &[
    ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
    (
        "/usr/aarch64-linux-gnu/include/stdio.h",
        "libc6-dev-arm64-cross",
    ),
];

/// Installs what the build needs.
pub(crate) fn tools() -> Result<()> {
    apt::ensure_all("building for arm64", TOOLS)?;
    standard_library(TARGET)
}

/// Asks rustup for the standard library of a target that has none here.
pub(crate) fn standard_library(target: &str) -> Result<()> {
    let library = Run::new("rustc")
        .words("--print target-libdir --target")
        .arg(target)
        .output()?;
    if Path::new(library.trim()).is_dir() {
        return Ok(());
    }
    println!("Asking rustup for the standard library of {target}");
    Run::new("rustup").words("target add").arg(target).output().map(drop).with_context(|| {
        format!("the standard library of {target} is missing; `rustup target add {target}` brings it where rustup has a network")
    })
}
