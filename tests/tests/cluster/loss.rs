//! Parts of the mesh go away and come back: what keeps going, and what fails closed.

use anyhow::{Context, Result, ensure};
use isthmus_tests::capture::Capture;
use isthmus_tests::cluster::{Apps, Cluster, Namespace, Node};
use isthmus_tests::wait::{patience, until};

use crate::disruption::{self, Floods, Scaled, Stopped};

#[test]
fn while_an_agent_is_dead_nothing_passes_and_nothing_leaks() -> Result<()> {
    let cluster = Cluster::alone_with_mesh()?;
    let namespace = cluster.meshed("killed")?;
    let floods = Floods::start(&cluster, &namespace)?;
    let [_, node] = cluster.nodes();
    let capture = Capture::start(&cluster.bridge()?)?;
    // It would start the agent again at once.
    let kubelet = Stopped::stop(&cluster, "n2/kubelet")?;
    let before = disruption::agent(&node, "status")?;
    node.run(&["kill", "-KILL", &before["pid"].to_string()])?;
    floods.wait_failed(&node)?;
    kubelet.back()?;
    until(
        "the agent has been started again",
        patience(120),
        || {
            let after = disruption::agent(&node, "status")?;
            Ok((after["pid"] != before["pid"] && after["ready"] == true).then_some(()))
        },
        || cluster.mesh_logs(),
    )?;
    floods.wait_right().with_context(|| cluster.mesh_logs())?;
    let tallies = floods.stop()?;
    ensure!(
        tallies
            .iter()
            .all(|tally| tally["wrong"] == serde_json::json!({})),
        "answers came from elsewhere: {tallies:#?}"
    );
    ensure!(
        !capture.stop()?.contains(disruption::ANSWER),
        "an answer crossed the bridge in the clear"
    );
    Ok(())
}

#[test]
fn traffic_goes_on_without_the_authority_and_without_the_api_server() -> Result<()> {
    let cluster = Cluster::alone_with_mesh()?;
    let namespace = cluster.meshed("away")?;
    namespace.kubectl(&["create", "serviceaccount", "labelled"])?;
    let waits = "command: [/bin/sleep, '1000000']";
    namespace.run(&Apps::new().pod("labelled", "n1", waits, "serviceAccountName: labelled"))?;
    let floods = Floods::start(&cluster, &namespace)?;
    let authority = Scaled::to_none(&cluster, "deployment/isthmus-ca")?;
    floods.wait_right()?;
    authority.back()?;
    let at = authority_is_known(&cluster)?;
    let api = Stopped::stop(&cluster, "api-server")?;
    for node in cluster.nodes() {
        wait_api(&node, "away", |away| !away.is_null())?;
    }
    floods.wait_right()?;
    another_certificate(&cluster, &namespace, &at)?;
    floods.wait_right()?;
    api.back()?;
    for node in cluster.nodes() {
        wait_api(&node, "heard again", serde_json::Value::is_null)?;
    }
    disruption::ensure_none_failed(&floods.stop()?)?;
    // What changes now is seen.
    let off = "isthmus.dev/mesh=disabled";
    namespace.kubectl(&["label", "--overwrite", "pod/labelled", off])?;
    cluster
        .agent("n1")?
        .wait_state(namespace.name(), "labelled", "outside-mesh")?;
    Ok(())
}

/// Waits until the agents are in touch with an authority that has just started. On which node
/// it runs.
fn authority_is_known(cluster: &Cluster) -> Result<Node> {
    for node in cluster.nodes() {
        until(
            &format!("the agent of {} has the authority's ear", node.name()),
            patience(60),
            || {
                let status = disruption::agent(&node, "status")?;
                Ok((status["authority"]["connected"] == true).then_some(()))
            },
            || cluster.mesh_logs(),
        )?;
    }
    let name = disruption::system(
        cluster,
        &[
            "get",
            "pods",
            "--selector=app.kubernetes.io/name=isthmus-ca",
            "--output=jsonpath={.items[0].spec.nodeName}",
        ],
    )?;
    let mut nodes = cluster.nodes().into_iter();
    nodes
        .find(|node| node.name() == name)
        .with_context(|| format!("the authority runs on {name:?}"))
}

/// A certificate that is revoked is replaced at once, also while nobody can ask the API server
/// whose the agent's token is.
fn another_certificate(cluster: &Cluster, namespace: &Namespace, authority: &Node) -> Result<()> {
    let [node, _] = cluster.nodes();
    let identity = format!("spiffe://cluster.local/ns/{}/sa/labelled", namespace.name());
    let certificate = || -> Result<serde_json::Value> {
        let status = disruption::agent(&node, "status")?;
        let all = status["certificates"].as_array();
        let own = all
            .into_iter()
            .flatten()
            .find(|it| it["identity"] == identity);
        own.cloned().context("the pod's certificate")
    };
    let first = certificate()?["serial"].clone();
    let serial = first.as_str().context("its serial number")?;
    let process = authority.run(&["pgrep", "--full", "^/mesh-agent ca serve"])?;
    let command = "/mesh-agent ca revoke --dir /var/lib/isthmus-ca/authority --serial";
    let inside = [
        "--target",
        process.trim(),
        "--all",
        "--setuid=65532",
        "--setgid=65532",
        "--",
    ];
    let words: Vec<_> = command.split(' ').collect();
    authority.run(&[&["nsenter"], &inside[..], &words[..], &[serial]].concat())?;
    until(
        "another certificate is there",
        patience(60),
        || Ok((certificate()?["serial"] != first).then_some(())),
        || format!("{:#?}", certificate()),
    )
}

/// Waits until the node's agent says of every kind that it watches that it is as `wanted`: for
/// how long the API server has not been heard about it.
fn wait_api(node: &Node, what: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> Result<()> {
    let kinds = || -> Result<Vec<serde_json::Value>> {
        let status = disruption::agent(node, "status")?;
        let kinds = status["config"]["api"].as_array();
        Ok(kinds.context("no kinds in status")?.clone())
    };
    until(
        &format!("the API server is {what} for the agent of {}", node.name()),
        patience(120),
        || {
            let kinds = kinds()?;
            let mut pods = kinds.iter().filter(|kind| kind["kind"] == "pods");
            Ok(pods
                .next()
                .filter(|kind| wanted(&kind["away_for_s"]))
                .map(drop))
        },
        || format!("{:#?}", kinds()),
    )
}
