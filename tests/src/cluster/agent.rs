//! The agent of a node, by `kubectl exec` and `kubectl logs`: what a person can ask it.

use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Cluster, SYSTEM};
use crate::wait::{self, patience};

/// The agent that is ready on a node.
#[derive(Debug)]
pub struct Agent<'a> {
    cluster: &'a Cluster,
    pod: String,
    since: Instant,
}

impl Cluster {
    /// The agent of a node; of two that take turns there, the younger. Its log is read from now on.
    ///
    /// # Errors
    /// Fails when none runs there.
    pub fn agent(&self, node: &str) -> Result<Agent<'_>> {
        let told = self.kubectl(&[
            "--namespace",
            SYSTEM,
            "get",
            "pods",
            "--selector=app.kubernetes.io/name=isthmus-agent",
            &format!("--field-selector=spec.nodeName={node},status.phase=Running"),
            "--sort-by=.metadata.creationTimestamp",
            "--output=name",
        ])?;
        let pod = told
            .lines()
            .last()
            .with_context(|| format!("no agent runs on {node}"))?;
        Ok(Agent {
            cluster: self,
            pod: pod.to_owned(),
            since: Instant::now(),
        })
    }
}

impl Agent<'_> {
    /// Its pod, as `pod/NAME`.
    #[must_use]
    pub fn pod(&self) -> &str {
        &self.pod
    }

    /// Runs `mesh-agent` with these words in the agent's container, and gives what it printed.
    ///
    /// # Errors
    /// Carries both its outputs when it failed.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let exec = [
            "--namespace",
            SYSTEM,
            "exec",
            &self.pod,
            "--",
            "/mesh-agent",
        ];
        self.cluster.kubectl(&[&exec[..], words].concat())
    }

    /// The same with `--output json`, read.
    ///
    /// # Errors
    /// Fails, too, when the answer is no JSON.
    pub fn ask(&self, words: &[&str]) -> Result<Value> {
        let told = self.run(&[words, &["--output", "json"]].concat())?;
        serde_json::from_str(&told).with_context(|| format!("reading {words:?}: {told}"))
    }

    /// What it says of a pod: the entry of `workloads` with this namespace and name.
    ///
    /// # Errors
    /// Fails when the agent cannot be asked.
    pub fn workload(&self, namespace: &str, name: &str) -> Result<Option<Value>> {
        let told = self.ask(&["workloads"])?;
        let all = told.as_array().or_else(|| told["workloads"].as_array());
        let mut all = all.context("workloads is no list")?.iter();
        Ok(all
            .find(|it| it["namespace"] == namespace && it["name"] == name)
            .cloned())
    }

    /// Waits until a pod has this state among the agent's `workloads`.
    ///
    /// # Errors
    /// Carries the last that was seen of it when that does not happen.
    pub fn wait_state(&self, namespace: &str, name: &str, state: &str) -> Result<Value> {
        self.wait_workload(namespace, name, ("state", state))
    }

    /// Waits until plaintext to a pod is judged by this mode: `STRICT` or `PERMISSIVE`. Policies
    /// are watched apart from pods, and may be heard later.
    ///
    /// # Errors
    /// Carries the last that was seen of it when that does not happen.
    pub fn wait_mode(&self, namespace: &str, name: &str, mode: &str) -> Result<Value> {
        self.wait_workload(namespace, name, ("mode", mode))
    }

    fn wait_workload(
        &self,
        namespace: &str,
        name: &str,
        (field, value): (&str, &str),
    ) -> Result<Value> {
        let last = std::cell::RefCell::new(None);
        wait::until(
            &format!("{namespace}/{name} is {value} for {}", self.pod),
            patience(60),
            || {
                let seen = self.workload(namespace, name)?;
                let right = seen.as_ref().is_some_and(|it| it[field] == value);
                last.replace(seen.clone());
                Ok(seen.filter(|_| right))
            },
            || format!("{:#?}", last.borrow()),
        )
    }

    /// The lines of its log since it was looked up, or a second more; those that are JSON.
    ///
    /// # Errors
    /// Carries what kubectl said.
    pub fn log(&self) -> Result<Vec<Value>> {
        // The API counts in whole seconds.
        let since = format!("--since={}s", self.since.elapsed().as_secs() + 2);
        let told = self
            .cluster
            .kubectl(&["--namespace", SYSTEM, "logs", &since, &self.pod])?;
        Ok(told
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect())
    }

    /// Waits for a line of the log that is `wanted`. Lines of other tests stand there, too: ask
    /// for an address or a name of one's own.
    ///
    /// # Errors
    /// Carries the last lines when none comes.
    pub fn wait_log(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let last = std::cell::RefCell::new(Vec::new());
        wait::until(
            &format!("{} logs {what}", self.pod),
            patience(60),
            || {
                let lines = self.log()?;
                let found = lines.iter().rev().find(|line| wanted(line)).cloned();
                last.replace(lines);
                Ok(found)
            },
            || {
                let lines = last.borrow();
                let lines = lines.iter().rev().take(20).rev();
                lines.map(|line| format!("\n{line}")).collect()
            },
        )
    }
}
