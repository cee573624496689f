//! `cargo xtask kernels`: the core of the privileged tests on real kernels of Debian, booted
//! under software emulation with a root folder that holds what the tests need.

mod boot;
mod image;
mod processor;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use processor::{Processor, Programs};

use crate::build;
use crate::phases::{Counted, Tally};

/// A kernel of Debian.
struct Guest {
    name: &'static str,
    processor: Processor,
    /// The package that depends on the newest kernel of its series.
    package: &'static str,
    /// What is run of the core, by parts of names.
    core: &'static str,
}

/// The programs are the same on every processor, and so is nearly all of the agent: on
/// another one the ways of a connection are tried, and what kills and restarts do to them.
const GUESTS: [Guest; 3] = [
    Guest {
        name: "Linux 6.1",
        processor: Processor::Amd64,
        package: "linux-image-cloud-amd64",
        core: CORE,
    },
    Guest {
        name: "Linux 6.12",
        processor: Processor::Amd64,
        package: "linux-image-6.12-cloud-amd64",
        core: CORE,
    },
    Guest {
        name: "Linux 6.1, arm64",
        processor: Processor::Arm64,
        package: "linux-image-cloud-arm64",
        core: "capture::core_ clients::core_ guard::core_ inbound::core_ slice::core_ restart::core_killed",
    },
];

/// What names of tests begin with that must hold on every kernel.
pub(crate) const CORE: &str = "core_";

/// The command on its own: builds first.
pub(crate) fn command(name: &str) -> Result<()> {
    crate::require_root()?;
    build::everything(false)?;
    let mut tally = Tally::default();
    phases(&mut tally, name);
    tally.close()
}

/// One phase a kernel; the programs must be built. The kernels run beside each other, each
/// on one emulated processor.
pub(crate) fn phases(tally: &mut Tally, tests: &str) {
    let prepared = tally.check("other kernels", || {
        let object = build::kernel_programs()?;
        let prepare = |guest: &'static Guest| {
            let Guest { processor, .. } = guest;
            processor.tools()?;
            let programs = processor.programs(&object)?;
            let kernel = image::kernel(*processor, guest.package)?;
            let arguments = if tests == CORE { guest.core } else { tests };
            let root = image::root(&kernel, *processor, &programs, arguments)?;
            Ok((guest, programs, kernel, root))
        };
        GUESTS.iter().map(prepare).collect::<Result<Vec<_>>>()
    });
    let Some(prepared) = prepared else { return };
    println!("\n=== booting {}", GUESTS.map(|it| it.name).join(" and "));
    // Each keeps a processor busy: no more at once than there are, the longest first.
    let at_once = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let next = AtomicUsize::new(0);
    let ended: Vec<_> = prepared.iter().map(|_| Mutex::new(None)).collect();
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let (Some(it), Some(ended)) = (prepared.get(place), ended.get(place)) else {
                        return;
                    };
                    *lock(ended) = Some(run(it));
                }
            });
        }
    });
    for ((Guest { name, .. }, ..), ended) in prepared.iter().zip(&ended) {
        let mut unsteady = Vec::new();
        tally.counting(name, |counted| {
            let (seen, result, took) = lock(ended).take().context("its output was lost")?;
            *counted = seen;
            println!("it ran for {:.1} s", took.as_secs_f64());
            unsteady = result?;
            Ok(())
        });
        tally.unsteady(unsteady.iter().map(|test| format!("{name}: {test}")));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Prepared = (&'static Guest, Programs, image::Kernel, PathBuf);

/// Boots one, and gives what it counted, the names of the tests that needed a second look,
/// and how long it took.
fn run((guest, programs, kernel, root): &Prepared) -> (Counted, Result<Vec<String>>, Duration) {
    let Guest {
        name, processor, ..
    } = guest;
    let start = Instant::now();
    let mut counted = Counted::default();
    let result = boot::boot(name, *processor, kernel, root, &mut counted).and_then(|()| {
        counted.second_look(|names| {
            println!("{name} | once more, alone: {}", names.join(", "));
            let arguments = format!("--exact {}", names.join(" "));
            let root = image::root(kernel, *processor, programs, &arguments)?;
            let mut seen = Counted::default();
            boot::boot(name, *processor, kernel, &root, &mut seen)?;
            Ok(seen)
        })
    });
    (counted, result, start.elapsed())
}
