//! Building for the cluster's tests while others run that mostly wait. What is built here is
//! found by the phase that needs it; what failed is built there again, and told.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// `cargo xtask cluster prepare`, under way. Dropping it waits for its end.
pub(crate) struct Ahead(Child);

impl Ahead {
    /// Starts it, at the lowest priority: it takes what the tests leave.
    pub(crate) fn start() -> Result<Self> {
        let log = crate::target().join("prepare.log");
        let output = File::create(&log).with_context(|| format!("making {}", log.display()))?;
        let errors = output.try_clone().context("sharing the log")?;
        let xtask = std::env::current_exe().context("finding xtask itself")?;
        println!(
            "Building for the cluster's tests meanwhile: {}",
            log.display()
        );
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "nice", "-n", "19"])
            .arg(xtask)
            .args(["cluster", "prepare"])
            .current_dir(crate::root())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .context("starting `cargo xtask cluster prepare`")?;
        Ok(Self(child))
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // Whether it succeeded is seen where what it built is needed.
        let _ = self.0.wait();
    }
}
