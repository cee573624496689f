//! Who is who: pods, nodes, addresses and identities, as the agents themselves tell them.

use anyhow::{Context, Result};
use isthmus_tests::mesh::{Node, Pod};
use serde_json::Value;

use super::access::field;
use crate::screen::Screen;
use crate::stage::Stage;

pub(super) fn show(screen: &mut Screen, stage: &Stage) -> Result<()> {
    screen.step("Who is who");
    let shop = told(&stage.node_a, &stage.shop)?;
    let web = told(&stage.node_b, &stage.web)?;
    let mut rows = vec![["pod", "node", "addresses", "identity"].map(str::to_owned)];
    for (workload, pod) in [(&shop, &stage.shop), (&web, &stage.web)] {
        rows.push([
            pod.uid(),
            field(workload, "node").to_owned(),
            addresses(pod),
            field(workload, "identity").to_owned(),
        ]);
    }
    for (name, pod) in [("stranger", &stage.stranger), ("plain", &stage.plain)] {
        let outside = "none: outside the mesh".to_owned();
        rows.push([name.to_owned(), "-".to_owned(), addresses(pod), outside]);
    }
    screen.table(&rows);
    screen.say(format!(
        "nginx runs in web and plain. The Service web is {}:80. The mesh is STRICT: mutual TLS or nothing.",
        stage.service
    ));
    for (workload, pod) in [(&shop, &stage.shop), (&web, &stage.web)] {
        let claim = format!(
            "the agent of {} enrolled {} under the identity of its service account",
            field(workload, "node"),
            pod.uid()
        );
        let holds = workload["state"] == "enrolled"
            && workload["mode"] == "STRICT"
            && workload["identity"] == pod.identity();
        screen.prove(&claim, holds, || workload.to_string())?;
    }
    screen.conclude(
        "Each node's agent took its pod into the mesh, under an identity of the pod's own.",
    );
    Ok(())
}

/// What a node's agent says about its pod.
fn told(node: &Node, pod: &Pod) -> Result<Value> {
    node.workload(&pod.uid())?
        .with_context(|| format!("the agent of {} does not know {}", node.name(), pod.uid()))
}

fn addresses(pod: &Pod) -> String {
    let all: Vec<_> = pod.addresses().iter().map(ToString::to_string).collect();
    all.join(" ")
}
