//! What the tests share that take parts of the mesh away: the mesh whole and alone in the
//! cluster, its agents asked without the API server, and floods of connections in pods.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use isthmus_tests::cluster::{Apps, Cluster, Namespace, Node, SYSTEM};
use isthmus_tests::process;
use isthmus_tests::wait::{patience, until};
use serde_json::Value;

/// Seconds for what takes a kubelet several tries.
const LONG: u64 = 180;

/// Asks the node's agent by its socket, as `mesh-agent COMMAND --output json`: no kubelet and
/// no API server is needed for it.
pub(crate) fn agent(node: &Node, command: &str) -> Result<Value> {
    let mut ask = Command::new(process::own_program("mesh-agent")?);
    ask.args([command, "--output", "json", "--run-dir"])
        .arg(node.path("/run/isthmus")?);
    let answer = process::run(ask)?.success()?;
    serde_json::from_str(&answer).with_context(|| format!("reading {command} of {}", node.name()))
}

/// Waits until the agent of each node has enrolled the namespace's pods of that node, as many
/// as `pods` says.
pub(crate) fn wait_enrolled(
    cluster: &Cluster,
    namespace: &Namespace,
    pods: [usize; 2],
) -> Result<()> {
    for (node, wanted) in cluster.nodes().iter().zip(pods) {
        let enrolled = || -> Result<usize> {
            let all = agent(node, "workloads")?;
            let ours =
                |it: &&Value| it["namespace"] == namespace.name() && it["state"] == "enrolled";
            Ok(all.as_array().into_iter().flatten().filter(ours).count())
        };
        until(
            &format!(
                "{wanted} pods of {} are enrolled on {}",
                namespace.name(),
                node.name()
            ),
            patience(LONG),
            || Ok((enrolled()? >= wanted).then_some(())),
            || format!("{:?}", enrolled()),
        )?;
    }
    Ok(())
}

/// A server on each node, called as its node, and a client on each that connects to both again
/// and again. What each prints lies on its node, so a flood can be followed without the API
/// server.
pub(crate) struct Floods<'a> {
    namespace: &'a Namespace<'a>,
    clients: Vec<Client>,
}

struct Client {
    pod: String,
    log: PathBuf,
}

impl<'a> Floods<'a> {
    /// Starts them in the namespace, and waits until connections arrive.
    pub(crate) fn start(cluster: &Cluster, namespace: &'a Namespace<'a>) -> Result<Self> {
        let nodes = cluster.nodes();
        namespace.apply(nodes.iter().fold(Apps::new(), server).yaml())?;
        let mut targets = Vec::new();
        for node in &nodes {
            let name = node.name();
            namespace.wait("condition=Ready", &format!("pod/server-{name}"))?;
            let pod = namespace.get(&format!("pod/server-{name}"))?;
            let ip = pod["status"]["podIP"].as_str().context("its address")?;
            targets.push(format!("{ip}:8080={name}"));
        }
        wait_enrolled(cluster, namespace, [1, 1])?;
        let targets = targets.join(",");
        let clients = |apps, node| client(apps, node, &targets);
        namespace.apply(nodes.iter().fold(Apps::new(), clients).yaml())?;
        let mut clients = Vec::new();
        for node in &nodes {
            let pod = format!("flood-{}", node.name());
            namespace.wait("condition=Ready", &format!("pod/{pod}"))?;
            let uid = namespace.get(&format!("pod/{pod}"))?["metadata"]["uid"].clone();
            let uid = uid.as_str().context("its UID")?;
            let folder = format!("/var/log/pods/{}_{pod}_{uid}/main", namespace.name());
            let log = node.path(&folder)?.join("0.log");
            clients.push(Client { pod, log });
        }
        let floods = Self { namespace, clients };
        floods.wait_right()?;
        Ok(floods)
    }

    /// Waits until a good number of further connections of each client were answered by the
    /// right server.
    pub(crate) fn wait_right(&self) -> Result<()> {
        self.clients.iter().try_for_each(|it| it.wait_more("right"))
    }

    /// The same for connections of the client on `node` that failed.
    pub(crate) fn wait_failed(&self, node: &Node) -> Result<()> {
        let on = |it: &&Client| it.pod.ends_with(node.name());
        let client = self
            .clients
            .iter()
            .find(on)
            .context("there is one a node")?;
        client.wait_more("failed")
    }

    /// Ends them; the tally of each client: `right`, `wrong` by who answered, `errors` by name.
    pub(crate) fn stop(self) -> Result<Vec<Value>> {
        let end = |client: &Client| {
            self.namespace.exec(&client.pod, &["kill", "-TERM", "1"])?;
            let tally = || {
                client
                    .lines()
                    .into_iter()
                    .rfind(|line| line.starts_with('{'))
            };
            let tally = until(
                &format!("{} tells its tally", client.pod),
                patience(60),
                || Ok(tally()),
                || format!("{:?}", client.lines().last()),
            )?;
            Ok(serde_json::from_str(&tally)?)
        };
        self.clients.iter().map(end).collect()
    }
}

impl Client {
    /// Two steps on, since connections that were under way before may complete the first.
    fn wait_more(&self, word: &str) -> Result<()> {
        let count = || {
            let lines = self.lines();
            let of_word = |line: &String| line.strip_prefix(word)?.trim().parse::<usize>().ok();
            lines.iter().filter_map(of_word).max().unwrap_or(0)
        };
        let wanted = count() + 40;
        until(
            &format!("{} counts {word} {wanted}", self.pod),
            patience(LONG),
            || Ok((count() >= wanted).then_some(())),
            || {
                format!(
                    "{word} {}; the end of its log: {:?}",
                    count(),
                    self.lines().last()
                )
            },
        )
    }

    /// What it printed, without what the container runtime writes before each line.
    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let own = |line: &str| line.splitn(4, ' ').nth(3).map(str::to_owned);
        text.lines().filter_map(own).collect()
    }
}

fn server(apps: Apps, node: &Node) -> Apps {
    let name = node.name();
    let container = format!(
        "args: [serve, banner, {name}], \
         readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}"
    );
    apps.pod(&format!("server-{name}"), name, &container, "")
}

fn client(apps: Apps, node: &Node, targets: &str) -> Apps {
    let name = node.name();
    let pod = format!("flood-{name}");
    apps.pod(&pod, name, &flooding(targets), "restartPolicy: Never")
}

/// What makes a container of the image `traffic` connect to these all the time, some fifty times a
/// second.
pub(crate) fn flooding(targets: &str) -> String {
    let how = "flood, --until-told, --threads, '2', --pause, '40'";
    format!("args: [{how}, --targets, '{targets}']")
}

/// Fails unless all of them arrived, and some did.
pub(crate) fn ensure_none_failed(tallies: &[Value]) -> Result<()> {
    for tally in tallies {
        let none = |field: &str| {
            tally[field]
                .as_object()
                .is_some_and(serde_json::Map::is_empty)
        };
        ensure!(
            tally["right"].as_u64() > Some(0) && none("wrong") && none("errors"),
            "connections failed: {tallies:#?}"
        );
    }
    Ok(())
}

/// Part of every answer of the servers of [`Floods`].
pub(crate) const ANSWER: &[u8] = b" accept=";

/// The agents are kept off the nodes but one, until dropped.
pub(crate) struct AgentsAway<'a>(&'a Cluster);

impl<'a> AgentsAway<'a> {
    /// Has them leave, and waits until they have.
    pub(crate) fn on_all_but(cluster: &'a Cluster, node: &str) -> Result<Self> {
        let away = Self(cluster);
        away.bind(&format!("\"{node}\""))?;
        wait_rollout(cluster, "daemonset/isthmus-agent")?;
        until(
            "one agent is left",
            patience(LONG),
            || Ok((agents(cluster)? == 1).then_some(())),
            || cluster.mesh_logs(),
        )?;
        Ok(away)
    }

    /// Lets them come back, and waits until they are ready.
    pub(crate) fn back(self) -> Result<()> {
        let cluster = self.0;
        drop(self);
        wait_rollout(cluster, "daemonset/isthmus-agent")
    }

    fn bind(&self, node: &str) -> Result<()> {
        let selector = format!("{{\"kubernetes.io/hostname\": {node}}}");
        let patch = format!(
            "{{\"spec\": {{\"template\": {{\"spec\": {{\"nodeSelector\": {selector}}}}}}}}}"
        );
        let words = [
            "patch",
            "daemonset/isthmus-agent",
            "--type=merge",
            "--patch",
            &patch,
        ];
        system(self.0, &words).map(drop)
    }
}

impl Drop for AgentsAway<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.bind("null") {
            eprintln!("the agents stay away: {error:#}");
        }
    }
}

/// A service of the cluster that is stopped, until dropped.
pub(crate) struct Stopped<'a> {
    cluster: &'a Cluster,
    service: &'static str,
    back: bool,
}

impl<'a> Stopped<'a> {
    pub(crate) fn stop(cluster: &'a Cluster, service: &'static str) -> Result<Self> {
        let back = false;
        let stopped = Self {
            cluster,
            service,
            back,
        };
        cluster.stop(service)?;
        Ok(stopped)
    }

    pub(crate) fn back(mut self) -> Result<()> {
        self.back = true;
        self.cluster.start(self.service)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        if !self.back
            && let Err(error) = self.cluster.start(self.service)
        {
            eprintln!("{} stays stopped: {error:#}", self.service);
        }
    }
}

/// A deployment of the mesh's own with no pods, until dropped.
pub(crate) struct Scaled<'a> {
    cluster: &'a Cluster,
    deployment: &'static str,
}

impl<'a> Scaled<'a> {
    pub(crate) fn to_none(cluster: &'a Cluster, deployment: &'static str) -> Result<Self> {
        let scaled = Self {
            cluster,
            deployment,
        };
        scaled.scale(0)?;
        let name = deployment.rsplit('/').next().unwrap_or(deployment);
        let selector = format!("--selector=app.kubernetes.io/name={name}");
        system(
            cluster,
            &["wait", "--for=delete", "--timeout=120s", "pods", &selector],
        )?;
        Ok(scaled)
    }

    pub(crate) fn back(self) -> Result<()> {
        let (cluster, deployment) = (self.cluster, self.deployment);
        drop(self);
        wait_rollout(cluster, deployment)
    }

    fn scale(&self, replicas: u32) -> Result<()> {
        let replicas = format!("--replicas={replicas}");
        system(self.cluster, &["scale", &replicas, self.deployment]).map(drop)
    }
}

impl Drop for Scaled<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.scale(1) {
            eprintln!("{} stays away: {error:#}", self.deployment);
        }
    }
}

/// How many pods of agents there are, of whatever state.
pub(crate) fn agents(cluster: &Cluster) -> Result<usize> {
    let selector = "--selector=app.kubernetes.io/name=isthmus-agent";
    let pods = system(cluster, &["get", "pods", "--no-headers", selector])?;
    Ok(pods.lines().count())
}

/// kubectl in the mesh's own namespace.
pub(crate) fn system(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    cluster.kubectl(&[&["--namespace", SYSTEM], arguments].concat())
}

/// Waits for a rollout of the mesh's own, `daemonset/isthmus-agent`.
pub(crate) fn wait_rollout(cluster: &Cluster, workload: &str) -> Result<()> {
    let timeout = format!("--timeout={}s", patience(LONG).as_secs());
    system(cluster, &["rollout", "status", &timeout, workload])
        .map(drop)
        .with_context(|| cluster.mesh_logs())
}
