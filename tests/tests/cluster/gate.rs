//! No gap at start-up: a pod waits for its node's agent, and whatever kind of pod it is, its
//! first byte goes through the mesh.

use anyhow::{Context, Result, ensure};
use isthmus_tests::capture::{Capture, Direction};
use isthmus_tests::cluster::{Apps, Cluster, Namespace, Object};
use isthmus_tests::wait::{patience, until};

use crate::disruption::AgentsAway;

/// What the pods send, and what the server sends back.
const MARKER: &str = "the-first-byte-of-a-pod";

#[test]
fn a_pod_waits_for_the_agent_of_its_node() -> Result<()> {
    let cluster = Cluster::alone_with_mesh()?;
    let namespace = cluster.meshed("gate")?;
    namespace.run(&Apps::new().server("server", "n1", "serve echo"))?;
    let away = AgentsAway::on_all_but(&cluster, "n1")?;
    let capture = Capture::start(&cluster.bridge()?)?;
    let command = format!("command: {}", asking(&namespace, "server")?);
    namespace.apply(
        Apps::new()
            .pod("early", "n2", &command, "restartPolicy: Never")
            .yaml(),
    )?;
    let why = "isthmus: the node's agent is not ready";
    until(
        "the pod's events say that the agent is not ready",
        patience(120),
        || {
            let events = namespace.events("Pod/early")?;
            Ok(events.into_iter().find(|event| event.contains(why)))
        },
        || namespace.events("Pod/early").unwrap_or_default().join("\n"),
    )?;
    let pod = namespace.get("pod/early")?;
    ensure!(pod["status"]["phase"] == "Pending", "it started: {pod:#}");
    away.back()?;
    ended_well(&namespace, "early")?;
    nothing_in_the_clear(capture)
}

#[test]
fn the_first_byte_of_every_kind_of_pod_is_captured() -> Result<()> {
    let cluster = Cluster::alone_with_mesh()?;
    let namespace = cluster.meshed("first")?;
    namespace.run(&Apps::new().server("server", "n1", "serve echo"))?;
    let capture = Capture::start(&cluster.bridge()?)?;
    let ask = asking(&namespace, "server")?;
    let ask_and_fail = ask.replace("']", " && echo reached; exit 1']");
    let image = "image: 'isthmus-test/traffic:1'";
    let apps = Apps::new()
        .pod(
            "brief",
            "n2",
            &format!("command: {ask}"),
            "restartPolicy: Never",
        )
        .pod(
            "initiated",
            "n2",
            "command: ['true']",
            &format!(
                "restartPolicy: Never, initContainers: [{{name: first, {image}, command: {ask}}}]"
            ),
        )
        .pod(
            "crashing",
            "n2",
            // What it printed becomes part of its status.
            &format!("terminationMessagePolicy: FallbackToLogsOnError, command: {ask_and_fail}"),
            "",
        )
        .and(&job_and_cron_job(&ask));
    namespace.apply(apps.yaml())?;
    namespace.kubectl(&["create", "job", "by-clock", "--from=cronjob/clock"])?;
    for pod in ["brief", "initiated"] {
        ended_well(&namespace, pod)?;
    }
    for job in ["job/once", "job/by-clock"] {
        // One try each: had its first connection failed, it would be `Failed`.
        namespace
            .wait("condition=Complete", job)
            .with_context(|| namespace.kubectl(&["describe", job]).unwrap_or_default())?;
    }
    let last = namespace.watch("pod/crashing", "it has crashed", |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        (status["restartCount"].as_u64()? > 0).then(|| status["lastState"]["terminated"].clone())
    })?;
    ensure!(
        last["message"] == "reached\n",
        "its server was not reached: {last:#}"
    );
    nothing_in_the_clear(capture)
}

#[test]
fn what_another_tool_takes_out_of_the_chain_comes_back() -> Result<()> {
    let cluster = Cluster::alone_with_mesh()?;
    let [node, _] = cluster.nodes();
    let file = node.path("/etc/cni/net.d/10-bridge.conflist")?;
    let plugin = node.path("/opt/cni/bin/isthmus")?;
    let read = || std::fs::read_to_string(&file).context("reading the network's configuration");
    let ours = "\"type\":\"isthmus\"";
    let with = read()?;
    ensure!(
        with.contains(ours),
        "the plugin is not in the chain: {with}"
    );
    // As a network's own installer does: its own text again, in another file's place.
    let mut list: Object = serde_json::from_str(&with)?;
    let plugins = list["plugins"].as_array_mut().context("its plugins")?;
    plugins.retain(|plugin| plugin["type"] != "isthmus");
    let temporary = file.with_extension("new");
    std::fs::write(&temporary, serde_json::to_string_pretty(&list)?)?;
    std::fs::rename(&temporary, &file)?;
    std::fs::remove_file(&plugin)?;
    until(
        "the plugin is in the chain, and on the disk, again",
        patience(60),
        || Ok((read()?.contains(ours) && plugin.exists()).then_some(())),
        || read().unwrap_or_default(),
    )
}

/// The command of a container that connects at once, one single time, and succeeds only when
/// the server answered with what it was sent. In YAML's flow style. [`MARKER`] is put together
/// in the pod: etcd is told the command in the clear, on the same recording.
fn asking(namespace: &Namespace, server: &str) -> Result<String> {
    let to = namespace.address(server, 4)?;
    Ok(format!(
        "[/bin/sh, -c, 'm=the-first-byte; traffic connect {to}:8080 --send $m-of-a-pod | grep -q $m-of-a-pod']"
    ))
}

fn job_and_cron_job(ask: &str) -> String {
    let pod = format!(
        "{{restartPolicy: Never, nodeSelector: {{kubernetes.io/hostname: n2}}, \
         containers: [{{name: main, image: 'isthmus-test/traffic:1', command: {ask}}}]}}"
    );
    format!(
        "
apiVersion: batch/v1
kind: Job
metadata: {{name: once}}
spec: {{backoffLimit: 0, template: {{spec: {pod}}}}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {{name: clock}}
spec: {{schedule: '0 0 1 1 *', jobTemplate: {{spec: {{backoffLimit: 0, template: {{spec: {pod}}}}}}}}}
"
    )
}

/// Waits until a pod that runs once has ended with success.
fn ended_well(namespace: &Namespace, pod: &str) -> Result<()> {
    let phase = namespace.watch(&format!("pod/{pod}"), "it has ended", |pod| {
        let phase = pod["status"]["phase"].as_str()?;
        matches!(phase, "Succeeded" | "Failed").then(|| phase.to_owned())
    })?;
    ensure!(
        phase == "Succeeded",
        "{pod} {phase}: {}",
        namespace.kubectl(&["describe", "pod", pod])?
    );
    Ok(())
}

fn nothing_in_the_clear(capture: Capture) -> Result<()> {
    let seen = capture.stop()?;
    let in_the_clear = |direction: &Direction| {
        let bytes = seen.bytes(*direction);
        bytes
            .windows(MARKER.len())
            .any(|at| at == MARKER.as_bytes())
    };
    let clear: Vec<_> = seen.directions().filter(in_the_clear).collect();
    ensure!(
        clear.is_empty(),
        "what a pod sent crossed the bridge in the clear: {clear:?}"
    );
    ensure!(
        !seen.tls13_connections(15008).is_empty(),
        "nothing crossed the bridge in a tunnel"
    );
    Ok(())
}
