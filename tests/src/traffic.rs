//! Connections and floods of the `traffic` tool that go on while a test changes the world
//! around them.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::net::SocketAddr;

use crate::mesh::Pod;
use crate::process::Process;

/// One connection to an `echo` server that stays open.
#[derive(Debug)]
pub struct Talk {
    process: Process,
    asked: std::cell::Cell<usize>,
}

impl Talk {
    /// Opens it from inside `pod` and hears one answer.
    ///
    /// # Errors
    /// Fails when no answer comes.
    pub fn open(pod: &Pod, to: SocketAddr) -> Result<Self> {
        let talk = Self {
            process: pod.start(&format!("talk {to}"))?,
            asked: 0.into(),
        };
        // Its signals are blocked by then.
        talk.process.wait_line(|line| line.starts_with("from "))?;
        talk.ask()?;
        Ok(talk)
    }

    /// The client's own address, as it sees it.
    ///
    /// # Errors
    /// Never, once it is open.
    pub fn from(&self) -> Result<SocketAddr> {
        let line = self.process.wait_line(|line| line.starts_with("from "))?;
        Ok(line.trim_start_matches("from ").parse()?)
    }

    /// Sends a line and waits for the answer: the connection still carries.
    ///
    /// # Errors
    /// Fails when it ended instead.
    pub fn ask(&self) -> Result<()> {
        let n = self.asked.get() + 1;
        self.asked.set(n);
        self.process.signal(Signal::SIGUSR1)?;
        let answer = format!("answered {n}");
        let line = self
            .process
            .wait_line(|line| line == answer || is_end(line))?;
        ensure!(line == answer, "the connection broke: {line}");
        Ok(())
    }

    /// Waits until the connection ends by itself, and says how: `ended` or an error's name.
    ///
    /// # Errors
    /// Fails when it does not end.
    pub fn end(&self) -> Result<String> {
        let line = self.process.wait_line(is_end)?;
        Ok(line.trim_start_matches("error ").to_owned())
    }

    /// Ends the own direction and waits for the other's end.
    ///
    /// # Errors
    /// Fails when that is not an orderly end.
    pub fn close(&self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)?;
        let end = self.end()?;
        ensure!(end == "ended", "the connection broke at its end: {end}");
        Ok(())
    }
}

fn is_end(line: &str) -> bool {
    line == "ended" || line.starts_with("error ")
}

/// Many short connections from several threads, one after the other, until told to stop.
#[derive(Debug)]
pub struct Flood {
    process: Process,
}

impl Flood {
    /// Starts it inside `pod`. Each target is an address and the `banner` server's name there.
    ///
    /// # Errors
    /// Fails when it cannot be started.
    pub fn start(pod: &Pod, threads: usize, targets: &[(SocketAddr, &str)]) -> Result<Self> {
        Self::start_with(pod, &format!("--threads {threads}"), targets)
    }

    /// As [`Flood::start`], but some fifty connections a second: for what takes a minute or more.
    ///
    /// # Errors
    /// Fails when it cannot be started.
    pub fn steady(pod: &Pod, targets: &[(SocketAddr, &str)]) -> Result<Self> {
        Self::start_with(pod, "--threads 2 --pause 40", targets)
    }

    fn start_with(pod: &Pod, how: &str, targets: &[(SocketAddr, &str)]) -> Result<Self> {
        let targets: Vec<_> = targets
            .iter()
            .map(|(address, name)| format!("{address}={name}"))
            .collect();
        let targets = targets.join(",");
        let words = format!("flood --until-told {how} --targets {targets}");
        Ok(Self {
            process: pod.start(&words)?,
        })
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until a good number of further connections were answered by the right server.
    ///
    /// # Errors
    /// Fails when that does not happen.
    pub fn wait_right(&self) -> Result<()> {
        self.wait_more("right ")
    }

    /// Waits until a good number of further connections failed.
    ///
    /// # Errors
    /// Fails when that does not happen.
    pub fn wait_failed(&self) -> Result<()> {
        self.wait_more("failed ")
    }

    /// Ends it; its tally: `right`, `wrong` by who answered, `errors` by name.
    ///
    /// # Errors
    /// Fails when it does not end well.
    pub fn stop(mut self) -> Result<Value> {
        self.process.signal(Signal::SIGTERM)?;
        let line = self.process.wait_line(|line| line.starts_with('{'))?;
        self.process.wait()?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Two steps on, since connections that were under way before may complete the first.
    fn wait_more(&self, word: &str) -> Result<()> {
        let count = |line: &str| -> Option<usize> { line.strip_prefix(word)?.parse().ok() };
        let before = self.process.stdout().lines().filter_map(count).max();
        let wanted = before.unwrap_or(0) + 40;
        self.process
            .wait_line(|line| count(line).is_some_and(|n| n >= wanted))
            .map(drop)
            .with_context(|| format!("{word}{wanted} was awaited"))
    }
}
