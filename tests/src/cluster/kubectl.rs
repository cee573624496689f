//! Asking the API server, by the cluster's own kubectl: what it answers is what a person sees.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Cluster;
use crate::process;
use crate::wait::patience;

/// An object of the API as JSON.
pub type Object = Value;

impl Cluster {
    /// Runs kubectl, and gives what it printed.
    ///
    /// # Errors
    /// Carries what it said when it failed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.folder().join("kubectl"));
        command.args(arguments);
        process::run(command)?
            .success()
            .with_context(|| format!("kubectl {}", arguments.join(" ")))
    }

    /// Starts kubectl, for what goes on: `logs --follow`, `exec` of a client.
    ///
    /// # Errors
    /// Fails when it cannot be started.
    pub fn spawn_kubectl(&self, arguments: &[&str]) -> Result<process::Process> {
        let mut command = Command::new(self.folder().join("kubectl"));
        command.args(arguments);
        process::Process::spawn(command)
    }

    /// Runs kubectl with a text on its standard input, such as `apply --filename -`.
    ///
    /// # Errors
    /// Carries what it said when it failed.
    pub fn kubectl_with(&self, arguments: &[&str], text: &str) -> Result<String> {
        let mut child = Command::new(self.folder().join("kubectl"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting kubectl")?;
        let mut input = child.stdin.take().context("the pipe that was asked for")?;
        let output = std::thread::scope(|scope| {
            // It may answer before it has read all: then the pipe breaks, and its answer says why.
            scope.spawn(move || drop(input.write_all(text.as_bytes())));
            child.wait_with_output()
        })?;
        ensure!(
            output.status.success(),
            "kubectl {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Watches an object (`kind/name` with what else `get` takes) until `wanted` finds what it
    /// wants in it, and gives that. An object that is not there yet is awaited.
    ///
    /// # Errors
    /// Carries the last that was seen when two minutes pass.
    pub fn watch<T>(
        &self,
        get: &[&str],
        what: &str,
        wanted: impl Fn(&Object) -> Option<T>,
    ) -> Result<T> {
        let limit = patience(120).as_secs();
        self.kubectl(
            &[
                &["wait", "--for=create", &format!("--timeout={limit}s")],
                get,
            ]
            .concat(),
        )?;
        let mut child = Command::new("timeout")
            .arg(limit.to_string())
            .arg(self.folder().join("kubectl"))
            .args(["get", "--watch", "--output=json"])
            .args(get)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting kubectl")?;
        let pipe = child.stdout.take().context("the pipe that was asked for")?;
        let mut last = Value::Null;
        let mut found = None;
        for seen in serde_json::Deserializer::from_reader(pipe).into_iter::<Value>() {
            last = seen.context("reading what kubectl saw")?;
            found = wanted(&last);
            if found.is_some() {
                break;
            }
        }
        // It fails only for one that has ended.
        let _ = child.kill();
        child.wait()?;
        match found {
            Some(found) => Ok(found),
            None => bail!(
                "waited {limit} s in vain until {what} in {}; last seen: {last:#}",
                get.join(" ")
            ),
        }
    }
}
