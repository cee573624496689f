//! Building for 64-bit ARM on a machine of another kind: the compiler's target and Debian's
//! cross compiler. Used by the emulated kernel of that processor and by the images.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::apt::{self, Need};
use crate::build;
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
    let installed = Run::new("rustup").words("target list --installed").output();
    if installed.is_ok_and(|list| list.lines().any(|line| line == TARGET)) {
        return Ok(());
    }
    println!("Asking rustup for the standard library of {TARGET}");
    Run::new("rustup").words("target add").arg(TARGET).output().map(drop).with_context(|| {
        format!("building for arm64 needs the standard library of {TARGET}; `rustup target add {TARGET}` brings it where rustup has a network")
    })
}

/// The pinned cargo, building for arm64.
pub(crate) fn cargo(words: &str) -> Run {
    build::cargo(words)
        .arg("--target")
        .arg(TARGET)
        .env(
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER",
            "aarch64-linux-gnu-gcc",
        )
        .env("CC_aarch64_unknown_linux_gnu", "aarch64-linux-gnu-gcc")
}

/// The folder in which debug builds lie.
pub(crate) fn debug() -> PathBuf {
    crate::target().join(TARGET).join("debug")
}
