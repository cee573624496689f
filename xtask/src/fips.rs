//! `cargo xtask fips`: the agent on the validated module of its cryptography library, and the
//! tests of TLS and of the settings in that mode.
//!
//! The module is built from source, which wants Go (for the generated assembly and the integrity
//! check) and CMake beside the C compiler. It lives in a target directory of its own, so that
//! the two builds do not undo each other.

use anyhow::Result;

use crate::apt;
use crate::command::Run;
use crate::phases::{Counted, Tally};

/// What the module's build calls, and the packages of Debian that bring it.
const TOOLS: &[apt::Need] = &[
    ("cc", "gcc"),
    ("c++", "g++"),
    ("cmake", "cmake"),
    ("go", "golang-go"),
    ("make", "make"),
    ("perl", "perl"),
];

/// The tests that say something of the mode.
const TESTS: &str = "tls:: model:: ca::files";

/// Builds and tests in FIPS mode.
pub(crate) fn command() -> Result<()> {
    let mut tally = Tally::default();
    phase(&mut tally);
    tally.close()
}

/// The same as one phase of `cargo xtask test`.
pub(crate) fn phase(tally: &mut Tally) -> Counted {
    let tools = tally.check("the tools of the FIPS module's build", tools);
    if tools.is_none() {
        return Counted::default();
    }
    tally.tests("tests in FIPS mode", cargo_test())
}

/// Installs what the module's build needs.
pub(crate) fn tools() -> Result<()> {
    apt::ensure_all("the FIPS module", TOOLS)
}

fn cargo_test() -> Run {
    Run::new("cargo")
        .words("test --package mesh-agent --lib --features fips --no-fail-fast --target-dir")
        .arg(crate::target().join("fips"))
        .arg("--")
        .words(TESTS)
}
