//! The demo as a user runs it: to its end, interrupted, and kept.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use isthmus_tests::leftovers::{remove_world, unique_name, world_exists};
use isthmus_tests::process::{Finished, Process, own_program, run};
use nix::sys::signal::Signal;

/// A world's name that is removed on drop, whatever came of the demo.
struct World(String);

impl World {
    fn new() -> Self {
        Self(unique_name())
    }

    fn demo(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(own_program("demo")?);
        command.args(arguments).args(["--world", &self.0]);
        Ok(command)
    }

    fn run(&self, arguments: &[&str]) -> Result<Finished> {
        run(self.demo(arguments)?)
    }

    /// Names, mounts and processes that are left of it.
    fn traces(&self) -> Result<Vec<String>> {
        let mut traces = Vec::new();
        if world_exists(&self.0)? {
            traces.push("a cgroup, a network namespace or a folder".to_owned());
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        traces.extend(
            mounts
                .lines()
                .filter(|l| l.contains(&self.0))
                .map(str::to_owned),
        );
        for process in fs::read_dir("/proc")?.flatten() {
            let arguments = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
            if arguments.contains(&self.0) {
                traces.push(arguments);
            }
        }
        Ok(traces)
    }

    fn ensure_gone(&self) -> Result<()> {
        let traces = self.traces()?;
        ensure!(traces.is_empty(), "left behind: {traces:#?}");
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Err(error) = remove_world(&self.0) {
            eprintln!("{} stays behind: {error:#}", self.0);
        }
    }
}

#[test]
fn demo_proves_its_claims_and_leaves_nothing() -> Result<()> {
    let world = World::new();
    let text = world.run(&[])?.success()?;
    for expected in ["1. Who is who", "6. The agents are back", "What was proven"] {
        ensure!(text.contains(expected), "no {expected:?} in\n{text}");
    }
    ensure!(!text.contains('\x1b'), "colours, and no terminal:\n{text}");
    world.ensure_gone()
}

#[test]
fn demo_interrupted_leaves_nothing() -> Result<()> {
    // While the first agents run, in the middle, and while there are none.
    for (signal, moment) in [
        (Signal::SIGINT, "1. Who is who"),
        (
            Signal::SIGHUP,
            "3. The same requests, seen by an eavesdropper on the bridge",
        ),
        (Signal::SIGTERM, "5. Both agents killed with -9"),
    ] {
        let world = World::new();
        let mut demo = Process::spawn(world.demo(&["--keep"])?)?;
        demo.wait_line(|line| line == moment)?;
        demo.signal(signal)?;
        let status = demo.wait()?;
        ensure!(
            status.code() == Some(128 + signal as i32),
            "after {signal} it ended with {status}"
        );
        world
            .ensure_gone()
            .with_context(|| format!("after {signal} at {moment:?}"))?;
    }
    Ok(())
}

#[test]
fn demo_interrupted_at_its_very_start_leaves_nothing() -> Result<()> {
    let world = World::new();
    let mut demo = Process::spawn(world.demo(&[])?)?;
    // The title comes before the first thing is made.
    demo.wait_line(|line| line.starts_with("Isthmus:"))?;
    demo.signal(Signal::SIGINT)?;
    ensure!(demo.wait()?.code() == Some(130), "{}", demo.stdout());
    world.ensure_gone()
}

#[test]
fn demo_whose_reader_leaves_ends_quietly() -> Result<()> {
    let world = World::new();
    let demo = own_program("demo")?;
    let said = shell(&format!(
        "{} --world {} | head -n 1",
        demo.display(),
        world.0
    ))?;
    ensure!(said.lines().count() == 1, "{said}");
    world.ensure_gone()
}

#[test]
fn demo_is_kept_until_it_is_removed() -> Result<()> {
    let world = World::new();
    let text = world.run(&["--keep"])?.success()?;
    let command = text
        .lines()
        .find(|line| line.starts_with("sh -c 'echo $$ >"))
        .context("no command that runs in a pod is printed")?;
    let answer = shell(command)?;
    ensure!(
        answer.contains("Hello from nginx in web"),
        "{command}: {answer}"
    );
    let status = text
        .lines()
        .find(|line| line.contains("mesh-agent status"))
        .context("no command that asks an agent is printed")?;
    ensure!(shell(status)?.contains("node-a, ready"), "{status}");

    let again = world.run(&[])?;
    ensure!(
        !again.status.success() && again.stderr.contains("cargo xtask demo --clean"),
        "{again:?}"
    );
    ensure!(
        world_exists(&world.0)?,
        "the second run removed the kept one"
    );

    let cleaned = world.run(&["--clean"])?.success()?;
    ensure!(cleaned.contains("was removed"), "{cleaned}");
    world.ensure_gone()?;
    let cleaned = world.run(&["--clean"])?.success()?;
    ensure!(cleaned.contains("nothing of the demo"), "{cleaned}");
    Ok(())
}

#[test]
fn demo_says_what_it_missed_and_where_the_logs_are() -> Result<()> {
    let world = World::new();
    // A curl that does not do what the demo expects of curl.
    let tools = Tools::with("curl", "#!/bin/sh\necho nonsense\n")?;
    let mut demo = world.demo(&[])?;
    demo.env("PATH", tools.path()?);
    let finished = run(demo)?;
    ensure!(finished.status.code() == Some(1), "{finished:?}");
    for expected in ["step 2 expected: nginx answered", "but saw: ", "nonsense"] {
        ensure!(
            finished.stderr.contains(expected),
            "no {expected:?} in {finished:?}"
        );
    }
    let logs = finished
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("demo: the logs are in "))
        .map(PathBuf::from)
        .with_context(|| format!("no word about logs in {finished:?}"))?;
    ensure!(
        logs.join("node-a/agent.log").is_file(),
        "{logs:?} has no log of an agent"
    );
    fs::remove_dir_all(logs)?;
    world.ensure_gone()
}

/// A folder with one program in it that stands before all others; removed on drop.
struct Tools(PathBuf);

impl Tools {
    fn with(program: &str, script: &str) -> Result<Self> {
        let folder = std::env::temp_dir().join(unique_name());
        fs::create_dir(&folder)?;
        let tools = Self(folder);
        let file = tools.0.join(program);
        fs::write(&file, script)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
        Ok(tools)
    }

    fn path(&self) -> Result<OsString> {
        let old = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.0.clone()).chain(std::env::split_paths(&old));
        Ok(std::env::join_paths(folders)?)
    }
}

impl Drop for Tools {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn shell(command: &str) -> Result<String> {
    let Output { stdout, stderr, .. } = Command::new("sh").args(["-c", command]).output()?;
    Ok(String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
}
