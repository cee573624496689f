//! Pods for tests: the tests' own servers and clients in them, asked from outside.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Namespace;

/// The image of the tool `traffic`.
const TRAFFIC: &str = "traffic";
/// The pod of [`Namespace::sql`].
const PSQL: &str = "psql";

/// YAML of pods, put together.
#[derive(Debug, Default)]
pub struct Apps(String);

impl Apps {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A pod of the image `traffic` that only waits to be asked.
    #[must_use]
    pub fn client(self, name: &str, node: &str) -> Self {
        self.idle(TRAFFIC, name, node)
    }

    /// A pod of another of the tests' images, such as `curl`, that only waits to be asked.
    #[must_use]
    pub fn idle(self, image: &str, name: &str, node: &str) -> Self {
        self.of_image(image, name, node, "command: [/bin/sleep, '1000000']")
    }

    /// A pod that runs the tool `traffic` with these words, such as `serve banner red`.
    #[must_use]
    pub fn server(self, name: &str, node: &str, words: &str) -> Self {
        let words: Vec<_> = words.split(' ').map(|word| format!("'{word}'")).collect();
        self.pod(name, node, &format!("args: [{}]", words.join(", ")), "")
    }

    /// A pod of the image `traffic`: `container` is more of its container, `spec` of its spec, in
    /// YAML's flow style; it has the label `app: NAME`.
    #[must_use]
    pub fn pod(self, name: &str, node: &str, container: &str, spec: &str) -> Self {
        self.and(&pod_of(TRAFFIC, name, node, container, spec))
    }

    /// The same of another of the tests' images.
    #[must_use]
    pub fn of_image(self, image: &str, name: &str, node: &str, container: &str) -> Self {
        self.and(&pod_of(image, name, node, container, ""))
    }

    /// PostgreSQL on n2 behind the Service `postgres`, and on n1 the client of [`Namespace::sql`].
    #[must_use]
    pub fn postgres(self) -> Self {
        self.of_image(
            "postgres",
            "postgres",
            "n2",
            "readinessProbe: {tcpSocket: {port: 5432}, periodSeconds: 1}",
        )
        .idle("postgres", PSQL, "n1")
        .and(
            "apiVersion: v1
kind: Service
metadata: {name: postgres}
spec: {selector: {app: postgres}, ports: [{port: 5432}]}",
        )
    }

    /// A Service of both families, by the label `app`, with this list of ports in flow style.
    #[must_use]
    pub fn service(self, name: &str, ports: &str) -> Self {
        self.and(&format!(
            "apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{app: {name}}}, ipFamilyPolicy: RequireDualStack, ports: [{ports}]}}"
        ))
    }

    /// Any other YAML.
    #[must_use]
    pub fn and(mut self, yaml: &str) -> Self {
        // Writing to a String cannot fail.
        let _ = write!(self.0, "---\n{yaml}\n");
        self
    }

    /// The YAML.
    #[must_use]
    pub fn yaml(&self) -> &str {
        &self.0
    }
}

fn pod_of(image: &str, name: &str, node: &str, container: &str, spec: &str) -> String {
    let comma = if spec.is_empty() { "" } else { ", " };
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec: {{nodeSelector: {{kubernetes.io/hostname: {node}}}, terminationGracePeriodSeconds: 1{comma}{spec},
  containers: [{{name: main, image: 'isthmus-test/{image}:1', {container}}}]}}"
    )
}

impl Namespace<'_> {
    /// Applies apps and waits until all pods of the namespace are ready.
    ///
    /// # Errors
    /// Carries the pods and their events when they do not become ready.
    pub fn run(&self, apps: &Apps) -> Result<()> {
        self.apply(apps.yaml())?;
        self.wait_all_ready()
    }

    /// Waits until all pods of the namespace are ready.
    ///
    /// # Errors
    /// Carries the pods and their events when they do not become ready.
    pub fn wait_all_ready(&self) -> Result<()> {
        let timeout = crate::wait::patience(120).as_secs();
        self.kubectl(&[
            "wait",
            "--for=condition=Ready",
            &format!("--timeout={timeout}s"),
            "pods",
            "--all",
        ])
        .map(drop)
        .with_context(|| {
            let ask = |what: &[&str]| self.kubectl(what).unwrap_or_else(|e| format!("{e:#}"));
            let pods = ask(&["get", "pods", "--output=wide"]);
            format!("{pods}\n{}", ask(&["get", "events"]))
        })
    }

    /// Runs `traffic` with these words in a pod, and reads the one object that it prints.
    ///
    /// # Errors
    /// Fails when it cannot be run; a connection that failed is in the answer.
    pub fn traffic(&self, pod: &str, words: &str) -> Result<Value> {
        let command: Vec<_> = std::iter::once("traffic").chain(words.split(' ')).collect();
        let told = self.exec(pod, &command)?;
        serde_json::from_str(&told).with_context(|| format!("reading {words}: {told}"))
    }

    /// What curl prints in a pod of the image `curl` that asks for `url`; `family` is `-4` or `-6`.
    ///
    /// # Errors
    /// Carries what curl said when it failed, at the latest after thirty seconds.
    pub fn curl(&self, pod: &str, family: &str, url: &str) -> Result<String> {
        let how = ["--silent", "--show-error", "--max-time", "30"];
        let told = self.exec(pod, &[&["curl", family], &how[..], &[url]].concat())?;
        Ok(told.trim().to_owned())
    }

    /// What the database of [`Apps::postgres`] answers to a query by its Service.
    ///
    /// # Errors
    /// Carries what psql said when it failed.
    pub fn sql(&self, query: &str) -> Result<String> {
        let who = ["--host=postgres", "--username=postgres"];
        let told = self.exec(PSQL, &[&["psql"], &who[..], &["-tAc", query]].concat())?;
        Ok(told.trim().to_owned())
    }

    /// A pod's address of one family: 4 or 6.
    ///
    /// # Errors
    /// Fails when it has none.
    pub fn address(&self, pod: &str, family: u8) -> Result<std::net::IpAddr> {
        let object = self.get(&format!("pod/{pod}"))?;
        let all = object["status"]["podIPs"].as_array().into_iter().flatten();
        all.filter_map(|it| it["ip"].as_str()?.parse().ok())
            .find(|it: &std::net::IpAddr| it.is_ipv6() == (family == 6))
            .with_context(|| format!("{pod} has no IPv{family} address"))
    }
}
