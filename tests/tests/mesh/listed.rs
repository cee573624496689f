//! Who is in the mesh by its labels, and what is listed of its connections.

use anyhow::{Result, ensure};
use isthmus_tests::wait::wait_until;

use crate::pair::Pair;

/// A pod that opts out by its label is left alone; one that opts in is not, wherever it is.
#[test]
fn labels_decide_who_is_in() -> Result<()> {
    let pair = Pair::start()?;
    let yaml = pair.client.yaml()?;
    let out = yaml.replace("  labels:\n", "  labels:\n    isthmus.dev/mesh: disabled\n");
    pair.mesh.write("pod-default-client", &out)?;
    pair.a.wait_state("default/client", "outside-mesh")?;
    pair.mesh.write("pod-default-client", &yaml)?;
    pair.a.wait_enrolled(&pair.client)
}

/// Enrolment is shown from the kernel's own state, and connections as they are.
#[test]
fn live_connections_are_listed() -> Result<()> {
    let pair = Pair::start()?;
    let _server = pair.server.serve("serve end-first")?;
    let hold = pair.server.serve("serve hold --listen [::]:8081")?;
    let to = pair.server.v4(8081);
    let held = pair
        .client
        .start(&format!("connect {to} --send hello --hold"))?;
    let mut shown = serde_json::Value::Null;
    wait_until("the connection is listed on both nodes", || {
        let find = |node: &isthmus_tests::mesh::Node| {
            let all = node.cli("connections").ok()?;
            all.as_array()?
                .iter()
                .find(|c| c["destination"] == to.to_string())
                .cloned()
        };
        let (out, inn) = (find(&pair.a), find(&pair.b));
        shown = serde_json::json!([out, inn]);
        out.is_some_and(|c| c["bytes_sent"] == 6) && inn.is_some()
    })
    .map_err(|error| error.context(shown.to_string()))?;
    ensure!(
        shown[0]["peer_identity"] == pair.server.identity(),
        "{shown}"
    );
    ensure!(
        shown[1]["peer_identity"] == pair.client.identity(),
        "{shown}"
    );
    ensure!(
        shown[0]["tls_version"] == "TLSv1.3" && shown[0]["pod"] == "default/client",
        "{shown}"
    );
    drop((held, hold));
    wait_until("it is gone from the list", || {
        pair.a
            .cli("connections")
            .is_ok_and(|all| all.as_array().is_some_and(Vec::is_empty))
    })
}
