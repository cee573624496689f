//! A namespace of one test: made, filled, asked, and removed with all in it.

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use super::{Cluster, Object};
use crate::report;
use crate::wait::patience;

/// Marks namespaces of tests, with the process that made them.
const LABEL: &str = "isthmus-test/process";

/// A namespace with a life; deleted on drop.
#[derive(Debug)]
pub struct Namespace<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl<'a> Namespace<'a> {
    pub(super) fn create(cluster: &'a Cluster, hint: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let process = std::process::id();
        let name = format!("{hint}-{process}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        cluster.kubectl(&["create", "namespace", &name])?;
        let namespace = Self { cluster, name };
        namespace.label(LABEL, &process.to_string())?;
        // Until it is there, pods are refused.
        namespace.wait("create", "serviceaccount/default")?;
        Ok(namespace)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets a label on the namespace itself.
    ///
    /// # Errors
    /// Carries what the API server said.
    pub fn label(&self, key: &str, value: &str) -> Result<()> {
        let pair = format!("{key}={value}");
        self.cluster
            .kubectl(&["label", "--overwrite", "namespace", &self.name, &pair])
            .map(drop)
    }

    /// Takes a label off the namespace.
    ///
    /// # Errors
    /// Carries what the API server said.
    pub fn unlabel(&self, key: &str) -> Result<()> {
        let key = format!("{key}-");
        self.cluster
            .kubectl(&["label", "namespace", &self.name, &key])
            .map(drop)
    }

    /// Runs kubectl in the namespace.
    ///
    /// # Errors
    /// Carries what it said when it failed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster
            .kubectl(&[&["--namespace", &self.name], arguments].concat())
    }

    /// Applies YAML.
    ///
    /// # Errors
    /// Carries what the API server said.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        self.cluster
            .kubectl_with(
                &["--namespace", &self.name, "apply", "--filename", "-"],
                yaml,
            )
            .map(drop)
    }

    /// Deletes an object, `kind/name`, and waits until it is gone.
    ///
    /// # Errors
    /// Carries what the API server said.
    pub fn delete(&self, object: &str) -> Result<()> {
        self.kubectl(&["delete", object]).map(drop)
    }

    /// An object, `kind/name`, or a list of a kind.
    ///
    /// # Errors
    /// Fails when it is not there.
    pub fn get(&self, object: &str) -> Result<Object> {
        let text = self.kubectl(&["get", "--output=json", object])?;
        serde_json::from_str(&text).with_context(|| format!("reading {object}"))
    }

    /// Waits as `kubectl wait --for` does: `condition=Ready`, `delete`, `create`.
    ///
    /// # Errors
    /// Fails when two minutes pass.
    pub fn wait(&self, condition: &str, object: &str) -> Result<()> {
        let condition = format!("--for={condition}");
        let timeout = format!("--timeout={}s", patience(120).as_secs());
        self.kubectl(&["wait", &condition, &timeout, object])
            .map(drop)
    }

    /// Watches an object, `kind/name`, until `wanted` finds what it wants.
    ///
    /// # Errors
    /// Carries the last that was seen when two minutes pass.
    pub fn watch<T>(
        &self,
        object: &str,
        what: &str,
        wanted: impl Fn(&Object) -> Option<T>,
    ) -> Result<T> {
        self.cluster
            .watch(&["--namespace", &self.name, object], what, wanted)
    }

    /// Runs a command in a pod, and gives what it printed.
    ///
    /// # Errors
    /// Carries both its outputs when it failed.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Result<String> {
        self.kubectl(&[&["exec", pod, "--"], command].concat())
    }

    /// What a pod has printed so far.
    ///
    /// # Errors
    /// Fails when it has no container yet.
    pub fn logs(&self, pod: &str) -> Result<String> {
        self.kubectl(&["logs", pod])
    }

    /// The messages of the events about an object, `Pod/name`; the reason stands before each.
    ///
    /// # Errors
    /// Carries what the API server said.
    pub fn events(&self, object: &str) -> Result<Vec<String>> {
        let told = self.kubectl(&[
            "events",
            "--for",
            object,
            "--output=jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}",
        ])?;
        Ok(told.lines().map(str::to_owned).collect())
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for question in [
                &["get", "pods,services", "--output=wide"][..],
                &["get", "events", "--sort-by=.lastTimestamp"][..],
            ] {
                let answer = self.kubectl(question).unwrap_or_else(|e| format!("{e:#}"));
                report::note(&format!("{} in {}", question.join(" "), self.name), &answer);
            }
        }
        // The cluster goes on removing what is in it.
        let gone = self
            .cluster
            .kubectl(&["delete", "namespace", "--wait=false", &self.name]);
        if let Err(error) = gone {
            eprintln!("the namespace {} stays behind: {error:#}", self.name);
        }
    }
}

/// Removes the namespaces of test processes that were killed, once a process.
pub(super) fn sweep(cluster: &Cluster) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Err(error) = remove_forsaken(cluster) {
            eprintln!("namespaces of earlier tests may stay behind: {error:#}");
        }
    });
}

fn remove_forsaken(cluster: &Cluster) -> Result<()> {
    let path = LABEL.replace('.', "\\.");
    let columns = format!(
        "--output=jsonpath={{range .items[*]}}{{.metadata.name}} {{.metadata.labels.{path}}}{{\"\\n\"}}{{end}}"
    );
    let told = cluster.kubectl(&["get", "namespaces", "--selector", LABEL, &columns])?;
    for (name, process) in told.lines().filter_map(|line| line.split_once(' ')) {
        if !std::path::Path::new("/proc").join(process).exists() {
            cluster.kubectl(&["delete", "namespace", "--wait=false", name])?;
        }
    }
    Ok(())
}
