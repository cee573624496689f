//! The demo: the mesh at work on one machine, step by step. `cargo xtask demo` builds and runs it.
//!
//! The program runs twice: once to walk through the steps, and once around that, to remove all
//! that was made, however the walk ends ([`supervisor`]).

mod keep;
mod nginx;
mod screen;
mod stage;
mod steps;

use std::fmt::Display;
use std::fs;
use std::io::Write;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use isthmus_tests::supervisor::{self, Claim, End};
use isthmus_tests::{leftovers, report};

use crate::screen::Screen;
use crate::stage::Stage;

#[derive(Parser)]
#[command(name = "demo", about = "Shows the mesh at work on this machine")]
struct Arguments {
    /// Leave it running and print the commands to look around
    #[arg(long, conflicts_with = "clean")]
    keep: bool,
    /// Remove what `--keep` or a killed run left
    #[arg(long)]
    clean: bool,
    /// What all its parts are called
    #[arg(long, hide = true, default_value = "isthmus-demo")]
    world: String,
    /// The inner of the two runs
    #[arg(long, hide = true)]
    walk: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = if arguments.walk {
        walk(&arguments).map(|()| 0)
    } else {
        around(&arguments)
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("\ndemo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The outer run: gives the exit code.
fn around(arguments: &Arguments) -> Result<u8> {
    let world = &arguments.world;
    let _claim = Claim::take(world).context("the demo cannot run now")?;
    if arguments.clean {
        let removed = leftovers::remove_world(world)?;
        println!(
            "{}",
            if removed {
                "The demo was removed."
            } else {
                "There is nothing of the demo on this machine."
            }
        );
        return Ok(0);
    }
    ensure!(
        !is_kept(world),
        "a demo is still there, kept by an earlier `--keep`: look around in {}, or remove it with `cargo xtask demo --clean`",
        leftovers::folder(world).display()
    );
    if leftovers::remove_world(world)? {
        println!("Removed what a demo that was killed had left.");
    }
    let mut inner = Command::new(std::env::current_exe()?);
    inner.args(["--walk", "--world", world]);
    if arguments.keep {
        inner.arg("--keep");
    }
    let end = supervisor::run(inner)?;
    finish(arguments, end)?;
    Ok(end.code())
}

/// Removes what the inner run made, or marks it as kept.
fn finish(arguments: &Arguments, end: End) -> Result<()> {
    let world = &arguments.world;
    let well = matches!(end, End::Exited(status) if status.success());
    let interrupted = match end {
        End::Interrupted(signal) => {
            complain(format_args!(
                "\ndemo: interrupted by {signal}; everything is being removed"
            ));
            true
        }
        End::Exited(status) => {
            if status.code().is_none() {
                complain(format_args!(
                    "\ndemo: it was ended from outside, by {status}"
                ));
            }
            status.code() == Some(screen::NOBODY_READS)
        }
    };
    if arguments.keep && !interrupted && leftovers::folder(world).is_dir() {
        fs::write(kept_mark(world), "")?;
        if !well {
            complain(format_args!(
                "demo: it is left as it stands, for you to look at; `cargo xtask demo --clean` removes it"
            ));
        }
        return Ok(());
    }
    let logs = if well || interrupted {
        None
    } else {
        save_logs(world)?
    };
    leftovers::remove_world(world)?;
    if let Some(logs) = logs {
        complain(format_args!("demo: the logs are in {}", logs.display()));
    }
    Ok(())
}

/// Writes a line to standard error, which may be a terminal that is gone: then nobody is told,
/// and the removal goes on.
fn complain(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The inner run.
fn walk(arguments: &Arguments) -> Result<()> {
    supervisor::detach()?;
    report::silence();
    let mut screen = Screen::new();
    screen.title(
        "Isthmus: a mesh without sidecars, at work on this machine",
        "Two agents stand for two nodes; their pods meet on a bridge of their own. No cluster,\n\
         no iptables, nothing in the pods but the applications.",
    );
    let stage = Stage::build(&arguments.world).context("setting the stage")?;
    // The outer run removes it all by name, after it has saved the logs; or it is to be kept.
    let stage = ManuallyDrop::new(stage);
    steps::all(&mut screen, &stage)?;
    screen.summary();
    if arguments.keep {
        keep::print(&screen, &stage)?;
    }
    Ok(())
}

fn kept_mark(world: &str) -> PathBuf {
    leftovers::folder(world).join("kept")
}

fn is_kept(world: &str) -> bool {
    kept_mark(world).exists()
}

/// Copies all logs out of the world's folder into the build folder, where they may stay; gives
/// that folder, or nothing when there are no logs.
fn save_logs(world: &str) -> Result<Option<PathBuf>> {
    let program = std::env::current_exe()?;
    let build = program
        .ancestors()
        .nth(2)
        .context("the program lies in a build folder")?;
    let target = build.join(format!("{world}-logs"));
    if target.exists() {
        fs::remove_dir_all(&target)?;
    }
    let mut saved = false;
    for part in fs::read_dir(leftovers::folder(world))
        .into_iter()
        .flatten()
        .flatten()
    {
        for file in fs::read_dir(part.path()).into_iter().flatten().flatten() {
            if file.path().extension().is_some_and(|e| e == "log") {
                let folder = target.join(part.file_name());
                fs::create_dir_all(&folder)?;
                fs::copy(file.path(), folder.join(file.file_name()))?;
                saved = true;
            }
        }
    }
    Ok(saved.then(|| shortened(&target)))
}

/// The path as seen from here, where that is shorter.
fn shortened(path: &Path) -> PathBuf {
    std::env::current_dir()
        .ok()
        .and_then(|here| Some(path.strip_prefix(here).ok()?.to_owned()))
        .unwrap_or_else(|| path.to_owned())
}
