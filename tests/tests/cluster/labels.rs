//! Labels bring running pods into the mesh and out of it, with nothing restarted and nothing cut.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use isthmus_tests::capture::{Capture, Recording};
use isthmus_tests::cluster::{Apps, Cluster, Namespace, Talk};

const MESH: &str = "isthmus.dev/mesh";
const PORT: u16 = 8080;

/// A client on n1, an `echo` server on n2, and a pod on the network of n2 itself.
struct Bed<'a> {
    cluster: &'a Cluster,
    namespace: Namespace<'a>,
    client: IpAddr,
    server: IpAddr,
}

impl<'a> Bed<'a> {
    fn new(cluster: &'a Cluster) -> Result<Self> {
        let namespace = cluster.namespace("labels")?;
        namespace.run(
            &Apps::new()
                .client("client", "n1")
                .server("server", "n2", "serve echo")
                .pod(
                    "on-host",
                    "n2",
                    "command: [/bin/sleep, '1000000']",
                    "hostNetwork: true",
                ),
        )?;
        Ok(Self {
            cluster,
            client: namespace.address("client", 4)?,
            server: namespace.address("server", 4)?,
            namespace,
        })
    }

    /// Until both pods are in this state for the agents of their own nodes.
    fn wait(&self, client: &str, server: &str) -> Result<()> {
        for (node, pod, state) in [("n1", "client", client), ("n2", "server", server)] {
            let agent = self.cluster.agent(node)?;
            agent.wait_state(self.namespace.name(), pod, state)?;
            // What a pod is for the other node decides how that one's pods reach it.
            let abroad = if state == "enrolled" { "remote" } else { state };
            let other = if node == "n1" { "n2" } else { "n1" };
            let agent = self.cluster.agent(other)?;
            agent.wait_state(self.namespace.name(), pod, abroad)?;
        }
        Ok(())
    }

    /// A new connection that says `marker` and is answered; what of it crossed the bridge.
    fn say(&self, marker: &str) -> Result<Said> {
        let capture = Capture::start(&self.cluster.bridge()?)?;
        let words = format!("connect {}:{PORT} --send {marker}", self.server);
        let seen = self.namespace.traffic("client", &words)?;
        let recording = capture.stop()?;
        ensure!(seen["read"] == format!("{marker}\n"), "{seen}");
        ensure!(
            seen["getpeername"] == format!("{}:{PORT}", self.server),
            "{seen}"
        );
        Ok(Said {
            clear: recording.contains(marker.as_bytes()),
            tunnels: self.tunnels(&recording),
        })
    }

    /// Connections of TLS 1.3 from the client's pod to port 15008 of the server's.
    fn tunnels(&self, recording: &Recording) -> usize {
        let all = recording.tls13_connections(15008).into_iter();
        all.filter(|it| it.from.ip() == self.client && it.to.ip() == self.server)
            .count()
    }

    /// Ids and restarts of all containers.
    fn containers(&self) -> Result<Vec<(String, u64)>> {
        let pods = self.namespace.get("pods")?;
        let pods = pods["items"].as_array().context("a list of pods")?;
        let status = |pod: &serde_json::Value| {
            let status = &pod["status"]["containerStatuses"][0];
            Some((
                status["containerID"].as_str()?.to_owned(),
                status["restartCount"].as_u64()?,
            ))
        };
        pods.iter()
            .map(|pod| status(pod).with_context(|| format!("no container: {pod:#}")))
            .collect()
    }
}

#[derive(Debug)]
struct Said {
    clear: bool,
    tunnels: usize,
}

#[test]
fn running_pods_come_and_go_by_their_labels() -> Result<()> {
    let cluster = Cluster::with_mesh()?;
    let bed = Bed::new(&cluster)?;
    let namespace = &bed.namespace;
    let containers = bed.containers()?;
    bed.wait("outside-mesh", "outside-mesh")?;
    for node in cluster.nodes() {
        // Fails when something is missing that the agent needs, as its container has it: the
        // capabilities, and bpf(2) under the runtime's own seccomp profile.
        let agent = cluster.agent(node.name())?;
        agent.run(&["check"])?;
    }
    let plain = Talk::open(namespace, "client", (bed.server, PORT))?;
    let said = bed.say("marker-before-the-label")?;
    ensure!(said.clear && said.tunnels == 0, "{said:?}");

    namespace.label(MESH, "enabled")?;
    bed.wait("enrolled", "enrolled")?;
    let said = bed.say("marker-in-the-mesh")?;
    ensure!(!said.clear && said.tunnels > 0, "{said:?}");
    plain.ask().context("older than the label")?;
    let meshed = Talk::open(namespace, "client", (bed.server, PORT))?;
    left_alone(&bed)?;

    let pod = |label: &str| namespace.kubectl(&["label", "pod/client", label]);
    pod("isthmus.dev/mesh=disabled")?;
    bed.wait("outside-mesh", "enrolled")?;
    let said = bed.say("marker-of-a-pod-that-left")?;
    ensure!(said.clear && said.tunnels == 0, "{said:?}");
    meshed.ask().context("when its pod was released")?;
    plain.ask().context("when its pod was released")?;
    pod("isthmus.dev/mesh-")?;
    bed.wait("enrolled", "enrolled")?;

    namespace.unlabel(MESH)?;
    bed.wait("outside-mesh", "outside-mesh")?;
    let said = bed.say("marker-of-a-namespace-that-left")?;
    ensure!(said.clear && said.tunnels == 0, "{said:?}");
    meshed.ask().context("when the namespace was released")?;
    plain.ask().context("when the namespace was released")?;

    namespace.label("istio.io/dataplane-mode", "ambient")?;
    bed.wait("enrolled", "enrolled")?;
    let said = bed.say("marker-under-istios-label")?;
    ensure!(!said.clear && said.tunnels > 0, "{said:?}");
    plain.ask().context("older than all labels")?;

    let now = bed.containers()?;
    ensure!(
        now == containers,
        "containers were restarted: {containers:?}, now {now:?}"
    );
    Ok(())
}

/// What runs on a node's own network is not the mesh's, whatever its namespace's label.
fn left_alone(bed: &Bed<'_>) -> Result<()> {
    let agent = bed.cluster.agent("n2")?;
    let own = agent.pod().trim_start_matches("pod/").to_owned();
    let pods = [
        (bed.namespace.name(), "on-host"),
        ("isthmus-system", own.as_str()),
    ];
    for (namespace, name) in pods {
        let told = agent.workload(namespace, name)?;
        let told = told.with_context(|| format!("the agent does not know {namespace}/{name}"))?;
        ensure!(
            told["meshed"] == false && told["state"] == "outside-mesh",
            "{told:#}"
        );
    }
    Ok(())
}
