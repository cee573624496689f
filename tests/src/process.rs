//! Processes that end with the test: started, watched line by line, and killed on drop.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::report;
use crate::wait::patience;

/// One of the project's own programs, which lie beside the test binary or one folder above it.
///
/// # Errors
/// Says what to build when the program is not there.
pub fn own_program(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe().context("finding this program's own path")?;
    this.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "no `{name}` near {}: run `cargo xtask build` first",
                this.display()
            )
        })
}

/// What a program that ran to its end left.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Finished {
    /// The standard output, provided that the program succeeded.
    ///
    /// # Errors
    /// Carries both outputs when it did not.
    pub fn success(self) -> Result<String> {
        ensure!(
            self.status.success(),
            "it ended with {}: {}{}",
            self.status,
            self.stdout,
            self.stderr
        );
        Ok(self.stdout)
    }
}

/// Runs a command to its end; it is killed when it takes longer than five minutes.
///
/// # Errors
/// Fails when it cannot be started or does not end in time.
pub fn run(command: Command) -> Result<Finished> {
    let mut process = Process::spawn(command)?;
    Ok(Finished {
        status: process.wait()?,
        stdout: process.output.text(Stream::Out),
        stderr: process.output.text(Stream::Err),
    })
}

/// A running program; killed and reaped on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    what: String,
    output: Arc<Output>,
}

impl Process {
    /// Starts a command with both its outputs collected.
    ///
    /// # Errors
    /// Fails when it cannot be started.
    pub fn spawn(mut command: Command) -> Result<Self> {
        let what = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {what}"))?;
        let output = Arc::new(Output::default());
        for (stream, pipe) in [
            (
                Stream::Out,
                child
                    .stdout
                    .take()
                    .map(|p| Box::new(p) as Box<dyn Read + Send>),
            ),
            (
                Stream::Err,
                child
                    .stderr
                    .take()
                    .map(|p| Box::new(p) as Box<dyn Read + Send>),
            ),
        ] {
            let (output, pipe) = (output.clone(), pipe.context("the pipe that was asked for")?);
            std::thread::spawn(move || output.collect(stream, pipe));
        }
        Ok(Self {
            child,
            what,
            output,
        })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of standard output that satisfies `wanted`, from the start of the output.
    ///
    /// # Errors
    /// Carries the output so far when the program ends first or a minute passes.
    pub fn wait_line(&self, wanted: impl Fn(&str) -> bool) -> Result<String> {
        self.output
            .wait_line(wanted)
            .with_context(|| format!("waiting for a line of {}", self.what))
    }

    /// All standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.output.text(Stream::Out)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// Fails when the process was reaped already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("a process id")?;
        kill(Pid::from_raw(pid), signal)
            .with_context(|| format!("sending {signal} to {}", self.what))
    }

    /// Waits for the end and for all of its output, at most five minutes.
    ///
    /// # Errors
    /// Fails when it does not come; the program is then killed.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.wait_at_most(300)
    }

    /// As [`Process::wait`], at most so many seconds.
    ///
    /// # Errors
    /// Fails when the end does not come; the program is then killed.
    pub fn wait_at_most(&mut self, seconds: u64) -> Result<ExitStatus> {
        // Its outputs close when it ends; that is the event to await. A child that it left
        // behind may hold them open, so the end itself is asked for too.
        let deadline = Instant::now() + patience(seconds);
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.output.drain();
                return Ok(status);
            }
            if Instant::now() >= deadline {
                self.child.kill()?;
                let status = self.child.wait()?;
                bail!(
                    "{} did not end in time (then: signal {:?})\n{}",
                    self.what,
                    status.signal(),
                    self.output.all()
                );
            }
            self.output
                .wait_closed(std::time::Duration::from_millis(50));
        }
    }

    /// Whether it has not ended yet.
    ///
    /// # Errors
    /// Fails when the kernel cannot say.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        report::note(&self.what, &self.output.all());
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

#[derive(Debug, Default)]
struct Output {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<(Stream, String)>,
    closed: usize,
}

impl Output {
    fn collect(&self, stream: Stream, pipe: impl Read) {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
            self.lock()
                .lines
                .push((stream, String::from_utf8_lossy(&line).into_owned()));
            self.changed.notify_all();
            line.clear();
        }
        self.lock().closed += 1;
        self.changed.notify_all();
    }

    fn wait_line(&self, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + patience(60);
        let mut state = self.lock();
        loop {
            let found = state
                .lines
                .iter()
                .find(|(stream, line)| *stream == Stream::Out && wanted(line.trim_end()));
            if let Some((_, line)) = found {
                return Ok(line.trim_end().to_owned());
            }
            let closed = state.closed == 2;
            let left = deadline.saturating_duration_since(Instant::now());
            if closed || left.is_zero() {
                drop(state);
                bail!(
                    "{}; its output:\n{}",
                    if closed {
                        "it ended"
                    } else {
                        "none came in time"
                    },
                    self.all()
                );
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn wait_closed(&self, at_most: std::time::Duration) {
        let state = self.lock();
        if state.closed < 2 {
            drop(self.changed.wait_timeout(state, at_most));
        } else {
            drop(state);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// Waits until what an ended program wrote is read; five seconds at most, since a child that
    /// it left behind may hold the pipes open.
    fn drain(&self) {
        let deadline = Instant::now() + patience(5);
        let mut state = self.lock();
        while state.closed < 2 && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn text(&self, wanted: Stream) -> String {
        self.lock()
            .lines
            .iter()
            .filter(|(stream, _)| *stream == wanted)
            .map(|(_, line)| line.as_str())
            .collect()
    }

    fn all(&self) -> String {
        self.lock()
            .lines
            .iter()
            .map(|(_, line)| line.as_str())
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
