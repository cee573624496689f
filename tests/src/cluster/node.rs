//! A node from the inside: commands run on it, and its cgroups as this machine sees them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cgroup;
use crate::process::{self, Finished, Process};

/// One of the cluster's machines.
#[derive(Debug, Clone)]
pub struct Node {
    cluster: PathBuf,
    name: String,
}

impl Node {
    pub(super) fn of(cluster: &Path, name: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
            name: name.to_owned(),
        }
    }

    /// As the API server knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a command on the node, in all of its namespaces, and gives what it printed.
    ///
    /// # Errors
    /// Carries both its outputs when it failed.
    pub fn run(&self, command: &[&str]) -> Result<String> {
        self.finish(command)?
            .success()
            .with_context(|| format!("{} on {}", command.join(" "), self.name))
    }

    /// Runs a command on the node, however it ends.
    ///
    /// # Errors
    /// Fails when it cannot be started.
    pub fn finish(&self, command: &[&str]) -> Result<Finished> {
        process::run(self.command(command)?)
    }

    /// Starts a command on the node. It is in the node's namespaces, and in this test's cgroup:
    /// a stranger to kubelet.
    ///
    /// # Errors
    /// Fails when it cannot be started.
    pub fn spawn(&self, command: &[&str]) -> Result<Process> {
        Process::spawn(self.command(command)?)
    }

    /// The cgroup v2 directory that is the node's root, as this machine sees it.
    ///
    /// # Errors
    /// Fails where no cgroup v2 is mounted.
    pub fn cgroup(&self) -> Result<PathBuf> {
        let cluster = self.cluster.file_name().unwrap_or_default();
        let cluster = format!("isthmus-cluster-{}", cluster.to_string_lossy());
        Ok(cgroup::mount_point()?.join(cluster).join(&self.name))
    }

    /// What a path of the node's is called on this machine.
    ///
    /// # Errors
    /// Fails while the node is down.
    pub fn path(&self, path: &str) -> Result<PathBuf> {
        let root = format!("/proc/{}/root", self.first_process()?);
        Ok(Path::new(&root).join(path.trim_start_matches('/')))
    }

    fn command(&self, command: &[&str]) -> Result<Command> {
        let mut nsenter = Command::new("nsenter");
        nsenter
            .args(["--target", &self.first_process()?.to_string()])
            .args(["--mount", "--net", "--uts", "--ipc", "--cgroup", "--pid"])
            .arg("--")
            .args(command);
        Ok(nsenter)
    }

    fn first_process(&self) -> Result<u32> {
        let file = self.cluster.join(format!("{}.pid", self.name));
        let text =
            fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        text.trim()
            .parse()
            .with_context(|| format!("{} holds no process id", file.display()))
    }
}
