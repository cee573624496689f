//! `cargo xtask demo` and `cargo xtask bench`: build, then hand over to the programs that do it.

use anyhow::Result;

use crate::command::Run;
use crate::{apt, build};

pub(crate) fn run(keep: bool, clean: bool) -> Result<()> {
    crate::require_root()?;
    apt::ensure_all("the demo", apt::TEST_TOOLS)?;
    let folder = build::everything(false)?;
    let mut demo = Run::new(folder.join("demo"));
    if keep {
        demo = demo.arg("--keep");
    }
    if clean {
        demo = demo.arg("--clean");
    }
    demo.show()
}

pub(crate) fn bench() -> Result<()> {
    crate::require_root()?;
    apt::ensure_all("the bench", apt::TEST_TOOLS)?;
    let folder = build::everything(true)?;
    Run::new(folder.join("bench")).show()
}
