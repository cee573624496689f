//! Booting a kernel under QEMU's software emulation, and reading what its tests say.

use std::path::Path;

use anyhow::{Result, bail, ensure};

use super::image::Kernel;
use crate::command::Run;
use crate::phases::Counted;

/// Emulation is ten to thirty times slower than the machine; this only ends what hangs.
const AT_MOST: &str = "3000";

/// Boots, passes the guest's output on, and counts its tests.
pub(super) fn boot(kernel: &Kernel, root: &Path, counted: &mut Counted) -> Result<()> {
    let mut status = None;
    let mut booted = false;
    // The emulator ends with xtask, however that ends.
    Run::new("setpriv")
        .words("--pdeathsig TERM timeout --foreground")
        .arg(AT_MOST)
        .words("setpriv --pdeathsig KILL")
        .words("qemu-system-x86_64 -accel tcg,thread=multi -cpu max -m 2048 -smp 2 -display none -vga none -serial stdio -monitor none -no-reboot -nic none -kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(root)
        .arg("-append")
        .arg("console=ttyS0 quiet panic=-1")
        .watch(|line| {
            counted.read(line);
            booted |= line.contains("booted ");
            if let Some((_, number)) = line.split_once("exit status ") {
                status = number.trim().parse::<i32>().ok();
            }
        })?;
    ensure!(
        booted,
        "the kernel did not boot: its output above says how far it came"
    );
    match status {
        Some(0) => {
            ensure!(counted.passed > 0, "the kernel ran no test");
            Ok(())
        }
        Some(_) if counted.failed > 0 => bail!("{} tests failed on this kernel", counted.failed),
        Some(status) => bail!("the tests ended with status {status}"),
        None => bail!("the kernel stopped before its tests ended (limit: {AT_MOST} s)"),
    }
}
