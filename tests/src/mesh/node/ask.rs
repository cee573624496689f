//! What a node's agent tells of itself: by its command line, its admin server and its log.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::super::pod::Pod;
use super::{Node, agent_binary};
use crate::process::{Finished, run};
use crate::wait::{patience, until};

impl Node {
    /// Runs a command of the agent's CLI against this node, with `-o json`, and gives its answer.
    ///
    /// # Errors
    /// Carries what the command said when it failed.
    pub fn cli(&self, command: &str) -> Result<Value> {
        let text = self.cli_run(&format!("{command} -o json"))?.success()?;
        serde_json::from_str(&text)
            .with_context(|| format!("`mesh-agent {command} -o json` said: {text}"))
    }

    /// Runs a command of the agent's CLI against this node.
    ///
    /// # Errors
    /// Fails when it cannot be started or hangs.
    pub fn cli_run(&self, words: &str) -> Result<Finished> {
        let mut command = Command::new(agent_binary()?);
        command
            .args(words.split_whitespace())
            .arg("--run-dir")
            .arg(self.run_dir());
        run(command)
    }

    /// What `status` says in the pod of the agent `instance`.
    ///
    /// # Errors
    /// Carries what the command said when it failed.
    pub fn status_of(&self, instance: &str) -> Result<Value> {
        let mut command = Command::new(agent_binary()?);
        command
            .args(["status", "-o", "json", "--run-dir"])
            .arg(self.run_dir())
            .env("ISTHMUS_INSTANCE", instance);
        Ok(serde_json::from_str(&run(command)?.success()?)?)
    }

    /// What the agent says about one workload.
    ///
    /// # Errors
    /// Fails when the CLI does.
    pub fn workload(&self, uid: &str) -> Result<Option<Value>> {
        let (namespace, name) = uid.split_once('/').context("a uid is namespace/name")?;
        let all = self.cli("workloads")?;
        let all = all
            .as_array()
            .context("`workloads -o json` prints a list")?;
        Ok(all
            .iter()
            .find(|w| w["name"] == name && w["namespace"] == namespace)
            .cloned())
    }

    /// Waits until this agent carries the pod's traffic.
    ///
    /// # Errors
    /// Says what the agent said of the pod last.
    pub fn wait_enrolled(&self, pod: &Pod) -> Result<()> {
        self.wait_state(&pod.uid(), "enrolled")
    }

    /// Waits until a workload is in this state.
    ///
    /// # Errors
    /// Says in what state it was seen last.
    pub fn wait_state(&self, uid: &str, state: &str) -> Result<()> {
        let mut last = None;
        until(
            &format!("{uid} is {state} on {}", self.name),
            patience(30),
            || {
                last = self.workload(uid)?;
                Ok(last
                    .as_ref()
                    .is_some_and(|w| w["state"] == state)
                    .then_some(()))
            },
            String::new,
        )
        .with_context(|| format!("last seen: {last:?}"))
    }

    /// Makes a change to the configuration and waits until the agent has put one in force that
    /// is newer than before.
    ///
    /// # Errors
    /// Fails when the change does, or when the agent does not follow.
    pub fn after<T>(&self, change: impl FnOnce() -> Result<T>) -> Result<T> {
        let generation = || -> Result<u64> {
            let status = self.cli("status")?;
            status["config"]["generation"]
                .as_u64()
                .with_context(|| format!("no generation in {status}"))
        };
        let before = generation()?;
        let done = change()?;
        until(
            &format!("{} follows the change", self.name),
            patience(30),
            || Ok((generation()? > before).then_some(())),
            || self.log_tail(),
        )?;
        Ok(done)
    }

    /// One answer of the admin server of the agent that was started last, head and body.
    ///
    /// # Errors
    /// Fails when it does not answer.
    pub fn http(&self, path: &str) -> Result<String> {
        self.http_with(path, "")
    }

    /// As [`Node::http`], with further header lines, each ended by CRLF.
    ///
    /// # Errors
    /// Fails when it does not answer.
    pub fn http_with(&self, path: &str, headers: &str) -> Result<String> {
        let admin = self.lock().last().context("no agent runs")?.admin;
        let mut stream = TcpStream::connect_timeout(&admin, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(patience(5)))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {admin}\r\n{headers}Connection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// All metrics, with the names of workloads, over the unix socket.
    ///
    /// # Errors
    /// Fails when the agent does not answer.
    pub fn metrics(&self) -> Result<String> {
        let mut stream = UnixStream::connect(self.run_dir().join("agent.sock"))?;
        stream.set_read_timeout(Some(patience(5)))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// The sum of a metric over the label sets that contain all of `labels` (`name="value"`).
    ///
    /// # Errors
    /// Fails when the admin server does not answer.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let text = self.metrics()?;
        let sum = text
            .lines()
            .filter(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(['{', ' ']))
            })
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum();
        Ok(sum)
    }

    /// All lines that the node's agents logged, those that are JSON objects.
    ///
    /// # Errors
    /// Fails when the file cannot be read.
    pub fn log(&self) -> Result<Vec<Value>> {
        let text = String::from_utf8_lossy(&fs::read(self.log_file())?).into_owned();
        Ok(text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect())
    }

    /// The lines of the access log.
    ///
    /// # Errors
    /// Fails when the file cannot be read.
    pub fn access_log(&self) -> Result<Vec<Value>> {
        Ok(self
            .log()?
            .into_iter()
            .filter(|line| line["target"] == "access")
            .collect())
    }

    /// Waits for a line of the access log that satisfies `wanted`.
    ///
    /// # Errors
    /// Carries the lines that came instead.
    pub fn wait_access(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        until(
            &format!("the access log of {} has a line with {what}", self.name),
            patience(30),
            || Ok(self.access_log()?.into_iter().find(&wanted)),
            || format!("{:#?}", self.access_log()),
        )
    }

    /// The folder of sockets.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// Where the agent pins its programs and maps.
    #[must_use]
    pub fn pin_dir(&self) -> PathBuf {
        self.world.folder.path().join("bpf").join(&self.name)
    }

    /// The cgroup below which the node's pods are.
    #[must_use]
    pub fn pods_cgroup(&self) -> &Path {
        self.cgroups.pods.path()
    }

    /// The file that the agent logs to.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.folder.join("agent.log")
    }

    /// The last lines of the log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    pub(super) fn log_text(&self) -> String {
        fs::read(self.log_file())
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }
}
