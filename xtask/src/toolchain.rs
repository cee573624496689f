//! The toolchain of the kernel programs: a compiler with `core` for BPF, and a linker.
//!
//! One stable toolchain does for everything, since `RUSTC_BOOTSTRAP=1` opens the options that
//! the BPF target needs. `core` for that target comes in one of two ways:
//! - *rustup*: the pinned toolchain's `rust-src`, compiled with `-Z build-std=core`;
//! - *debian*: `rustc-web` with `libstd-rust-web-dev-bpf`, a `core` that is compiled already,
//!   for machines whose rustup cannot fetch components.

mod linker;

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use crate::apt::{self, Need};
use crate::command::{Run, exists};

/// Forces one way; for testing both.
const FORCE: &str = "ISTHMUS_EBPF_TOOLCHAIN";
const TARGET: &str = "bpfel-unknown-none";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN: &[Need] = &[
    (DEBIAN_RUSTC, "rustc-web"),
    (DEBIAN_CARGO, "cargo-web"),
    (
        "/usr/lib/rustlib/bpfel-unknown-none",
        "libstd-rust-web-dev-bpf",
    ),
];

/// A compiler that can make kernel programs here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kernel {
    Rustup,
    Debian,
}

impl Kernel {
    /// Takes what is there, else installs what can be had.
    pub(crate) fn choose() -> Result<Self> {
        let kernel = match std::env::var(FORCE).as_deref() {
            Ok("rustup") => {
                ensure!(
                    prepare_rustup(),
                    "{FORCE}=rustup, but rustup cannot provide rust-src for the pinned toolchain"
                );
                Self::Rustup
            }
            Ok("debian") => prepare_debian()?,
            Ok(other) => bail!("{FORCE} is `{other}`; it can be `rustup` or `debian`"),
            Err(_) if prepare_rustup() => Self::Rustup,
            Err(_) => prepare_debian()?,
        };
        linker::ensure(kernel)?;
        Ok(kernel)
    }

    /// This compiler's cargo, for the workspace of the kernel programs.
    pub(crate) fn cargo(self, words: &str) -> Run {
        // An inherited RUSTFLAGS would replace the flags of that workspace's own configuration.
        match self {
            Self::Rustup => Run::new("cargo").words(words).words("-Z build-std=core"),
            Self::Debian => Run::new(DEBIAN_CARGO)
                .words(words)
                .env("RUSTC", DEBIAN_RUSTC),
        }
        .arg("--target")
        .arg(TARGET)
        .env("RUSTC_BOOTSTRAP", "1")
        .without_env("RUSTFLAGS")
        .without_env("CARGO_ENCODED_RUSTFLAGS")
    }

    fn rustc(self) -> Run {
        Run::new(match self {
            Self::Rustup => "rustc",
            Self::Debian => DEBIAN_RUSTC,
        })
        .env("RUSTC_BOOTSTRAP", "1")
    }
}

/// Whether the pinned toolchain has its `rust-src`, asking rustup for it where it is missing.
fn prepare_rustup() -> bool {
    if has_rust_src() {
        return true;
    }
    if !exists("rustup") {
        return false;
    }
    println!("Asking rustup for rust-src");
    match Run::new("rustup").words("component add rust-src").output() {
        Ok(_) => has_rust_src(),
        Err(error) => {
            println!(
                "rustup cannot give it, so Debian's compiler for the kernel programs it is ({error:#})"
            );
            false
        }
    }
}

fn has_rust_src() -> bool {
    let sysroot = Run::new("rustc").words("--print sysroot").output();
    sysroot.is_ok_and(|path| {
        PathBuf::from(path.trim())
            .join("lib/rustlib/src/rust/library/core/Cargo.toml")
            .exists()
    })
}

fn prepare_debian() -> Result<Kernel> {
    apt::ensure_all("the kernel programs' compiler", DEBIAN)?;
    let version = Run::new(DEBIAN_RUSTC)
        .arg("--version")
        .output()
        .context("asking Debian's compiler for its version")?;
    println!(
        "The kernel programs are compiled by Debian's {}",
        version.trim()
    );
    Ok(Kernel::Debian)
}
