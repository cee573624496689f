//! Embeds the kernel programs that `ISTHMUS_EBPF_OBJECT` names (`cargo xtask
//! build` sets it). Without it nothing is embedded, so that building and testing
//! the agent needs no eBPF toolchain; `Interceptor::open` then says what to do.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-env-changed=ISTHMUS_EBPF_OBJECT");
    println!("cargo::rerun-if-changed=build.rs");
    let object = match env::var_os("ISTHMUS_EBPF_OBJECT").filter(|path| !path.is_empty()) {
        Some(path) => {
            let path = PathBuf::from(path);
            println!("cargo::rerun-if-changed={}", path.display());
            fs::read(&path)
                .unwrap_or_else(|error| panic!("ISTHMUS_EBPF_OBJECT={}: {error}", path.display()))
        }
        None => Vec::new(),
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("mesh-ebpf.o"), object).expect("OUT_DIR can be written");
}
