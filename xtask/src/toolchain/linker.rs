//! bpf-linker, of an LLVM that reads what the compiler writes.

use std::fs;

use anyhow::{Context, Result};

use super::{Kernel, TARGET};
use crate::apt;
use crate::command::{Run, exists, tools};

const VERSION: &str = "0.13.0";
/// The LLVM of the pinned compiler and of Debian's.
const LLVM: u32 = 22;

/// Makes sure that a fitting linker is on the path; builds one where there is none.
pub(super) fn ensure(compiler: Kernel) -> Result<()> {
    if exists("bpf-linker") && reads_output_of(compiler)? {
        return Ok(());
    }
    install()?;
    anyhow::ensure!(
        reads_output_of(compiler)?,
        "bpf-linker {VERSION} with LLVM {LLVM} was built, but cannot read what the compiler writes: \
         is the compiler newer than the one that rust-toolchain.toml names?"
    );
    Ok(())
}

/// Tries it: a crate that needs not even `core` is compiled to bitcode, and linked.
fn reads_output_of(compiler: Kernel) -> Result<bool> {
    let folder = tools().join("probe");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let (source, bitcode, object) = (
        folder.join("probe.rs"),
        folder.join("probe.bc"),
        folder.join("probe.o"),
    );
    fs::write(&source, "#![feature(no_core)]\n#![no_core]\n#![no_std]\n")
        .context("writing the probe")?;
    compiler
        .rustc()
        .words("--crate-type lib --emit llvm-bc --target")
        .arg(TARGET)
        .arg("-o")
        .arg(&bitcode)
        .arg(&source)
        .output()
        .context("the compiler cannot compile for BPF")?;
    // Versions before 0.13 link, but write BTF that kernels refuse.
    let new_enough = Run::new("bpf-linker")
        .arg("--version")
        .output()
        .is_ok_and(|text| minor(&text) >= Some(13));
    Ok(new_enough
        && Run::new("bpf-linker")
            .arg("-o")
            .arg(&object)
            .arg(&bitcode)
            .succeeds())
}

/// The minor version of `bpf-linker 0.MINOR.PATCH`; a later major counts as new enough.
fn minor(text: &str) -> Option<u32> {
    let mut numbers = text
        .trim()
        .rsplit(' ')
        .next()?
        .split('.')
        .map(|n| n.parse::<u32>().ok());
    match numbers.next()?? {
        0 => numbers.next()?,
        _ => Some(u32::MAX),
    }
}

fn install() -> Result<()> {
    let prefix = format!("/usr/lib/llvm-{LLVM}");
    if !exists(&format!("{prefix}/bin/llvm-config")) || !exists("c++") {
        let packages = [
            format!("llvm-{LLVM}-dev"),
            format!("libpolly-{LLVM}-dev"),
            "g++".to_owned(),
        ];
        apt::install(
            "the kernel programs' linker",
            &packages.each_ref().map(String::as_str),
        )?;
    }
    println!("Building bpf-linker {VERSION} with LLVM {LLVM} (about a minute)");
    Run::new("cargo")
        .words("install bpf-linker --locked --force --no-default-features --version")
        .arg(VERSION)
        .arg("--features")
        .arg(format!("llvm-{LLVM}"))
        .arg("--root")
        .arg(tools())
        // Without it, its build takes the first llvm-config on the path, often an older one.
        .env("LLVM_PREFIX", &prefix)
        .env(&format!("LLVM_SYS_{LLVM}1_PREFIX"), &prefix)
        .output()
        .map(drop)
        .context("bpf-linker could not be built")
}

#[cfg(test)]
mod tests {
    use super::minor;

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(minor("bpf-linker 0.13.0\n"), Some(13));
        assert_eq!(minor("bpf-linker 0.9.14"), Some(9));
        assert_eq!(minor("bpf-linker 1.0.0"), Some(u32::MAX));
        assert_eq!(minor("something else"), None);
    }
}
