//! Booting a kernel under QEMU's software emulation, and reading what its tests say.

use std::path::Path;

use anyhow::{Result, bail, ensure};

use super::image::Kernel;
use super::processor::Processor;
use crate::command::Run;
use crate::phases::Counted;

/// Emulation is ten to thirty times slower than the machine; this only ends what hangs.
const AT_MOST: &str = "3000";

/// One processor each: with two, the emulator (QEMU 7.2) sometimes goes on executing the breakpoint
/// that a kernel leaves for a moment where it patches its own code (a static key, as the first cgroup
/// program flips one), and the guest's processor traps there for ever.
const PROCESSORS: &str = "1";

/// What a kernel says when it can no longer be trusted with the rest of the tests.
const PANIC: &str = "Kernel panic";

/// Boots, passes the guest's output on, each line behind the kernel's `name`, and counts its tests.
pub(super) fn boot(
    name: &str,
    processor: Processor,
    kernel: &Kernel,
    root: &Path,
    counted: &mut Counted,
) -> Result<()> {
    let mut status = None;
    let mut booted = false;
    let mut panicked = false;
    // The emulator ends with xtask, however that ends.
    Run::new("setpriv")
        .words("--pdeathsig TERM timeout --foreground")
        .arg(AT_MOST)
        .words("setpriv --pdeathsig KILL")
        .words(processor.emulator())
        .words("-accel tcg,thread=multi -m 2048 -display none -serial stdio -monitor none -no-reboot -nic none -kernel")
        .arg(&kernel.image)
        .arg("-smp")
        .arg(PROCESSORS)
        .arg("-initrd")
        .arg(root)
        .arg("-append")
        // Warnings and the traces that belong to them; a kernel that gets nowhere for two minutes
        // (twice the threshold) panics. Less may be the machine's fault that emulates it.
        .arg(format!(
            "console={} loglevel=5 watchdog_thresh=60 softlockup_panic=1 panic=-1",
            processor.console()
        ))
        .watch_as(name, |line| {
            counted.read(line);
            booted |= line.contains("booted ");
            panicked |= line.contains(PANIC);
            if let Some((_, number)) = line.split_once("exit status ") {
                status = number.trim().parse::<i32>().ok();
            }
        })?;
    ensure!(
        booted,
        "the kernel did not boot: its output above says how far it came"
    );
    ensure!(!panicked, "the kernel panicked: its trace is above");
    match status {
        Some(0) => {
            ensure!(counted.passed > 0, "the kernel ran no test");
            Ok(())
        }
        // Whoever counts them says so.
        Some(_) if counted.failed > 0 => Ok(()),
        Some(status) => bail!("the tests ended with status {status}"),
        None => bail!("the kernel stopped before its tests ended (limit: {AT_MOST} s)"),
    }
}
