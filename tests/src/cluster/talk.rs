//! A connection that a pod keeps open while a test changes the world around it.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

use super::Namespace;
use crate::wait::{self, patience};

/// One connection from a pod to an `echo` server, of the tool `traffic` in the pod.
#[derive(Debug)]
pub struct Talk<'a> {
    namespace: &'a Namespace<'a>,
    pod: &'a str,
    /// In the pod: what the tool prints.
    file: String,
    process: String,
    asked: std::cell::Cell<usize>,
}

impl<'a> Talk<'a> {
    /// Opens it from inside `pod`, whose image has a shell and `traffic`, and hears one answer.
    ///
    /// # Errors
    /// Fails when no answer comes.
    pub fn open(namespace: &'a Namespace<'a>, pod: &'a str, to: (IpAddr, u16)) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let file = format!("/talk-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let to = std::net::SocketAddr::from(to);
        let script = format!("traffic talk {to} < /dev/null > {file} 2>&1 & echo $!");
        let process = namespace.exec(pod, &["sh", "-c", &script])?;
        let talk = Self {
            namespace,
            pod,
            file,
            process: process.trim().to_owned(),
            asked: 0.into(),
        };
        // Its signals are blocked by then.
        talk.wait_line(|line| line.starts_with("from "))?;
        talk.ask()?;
        Ok(talk)
    }

    /// Sends a line and waits for the answer: the connection still carries.
    ///
    /// # Errors
    /// Fails when it ended instead.
    pub fn ask(&self) -> Result<()> {
        let n = self.asked.get() + 1;
        self.asked.set(n);
        self.namespace
            .exec(self.pod, &["kill", "-USR1", &self.process])?;
        let answer = format!("answered {n}");
        let line = self.wait_line(|line| line == answer || is_end(line))?;
        ensure!(line == answer, "the connection broke: {line}");
        Ok(())
    }

    /// Waits until the connection ends by itself, and says how: `ended` or an error's name.
    ///
    /// # Errors
    /// Fails when it does not end.
    pub fn end(&self) -> Result<String> {
        let line = self.wait_line(is_end)?;
        Ok(line.trim_start_matches("error ").to_owned())
    }

    /// Ends the own direction and waits for the other's end.
    ///
    /// # Errors
    /// Fails when that is not an orderly end.
    pub fn close(&self) -> Result<()> {
        self.namespace
            .exec(self.pod, &["kill", "-TERM", &self.process])?;
        let end = self.end()?;
        ensure!(end == "ended", "the connection broke at its end: {end}");
        Ok(())
    }

    fn wait_line(&self, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let last = std::cell::RefCell::default();
        wait::until(
            "the connection answers",
            patience(30),
            || {
                let told = self.namespace.exec(self.pod, &["cat", &self.file])?;
                let found = told.lines().find(|line| wanted(line)).map(str::to_owned);
                last.replace(told);
                Ok(found)
            },
            || last.borrow().clone(),
        )
        .with_context(|| format!("{} in {}", self.file, self.pod))
    }
}

fn is_end(line: &str) -> bool {
    line == "ended" || line.starts_with("error ") || line.starts_with("traffic: ")
}
