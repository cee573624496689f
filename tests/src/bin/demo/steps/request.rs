//! A request from pod to pod, and what both agents say about it.

use anyhow::Result;
use isthmus_tests::capture::Recording;
use isthmus_tests::mesh::Node;
use serde_json::Value;

use super::access::{LogMark, field};
use super::{answered, curl, outcome};
use crate::nginx;
use crate::screen::Screen;
use crate::stage::Stage;

/// What nobody on the way may read.
pub(super) const SECRET: &str = "marker-7f3k9q";

/// Gives what crossed the bridge meanwhile.
pub(super) fn show(screen: &mut Screen, stage: &Stage) -> Result<Recording> {
    screen.step("A request from pod to pod");
    let capture = stage.mesh.capture()?;
    for (to, family) in [
        (stage.service.to_string(), "the Service's IPv4 address"),
        (
            stage.web.v6(nginx::PORT).to_string(),
            "the pod's IPv6 address",
        ),
    ] {
        let logs = (LogMark::now(&stage.node_a)?, LogMark::now(&stage.node_b)?);
        let got = curl(screen, &stage.shop, "shop", &to, SECRET)?;
        let claim = format!("nginx answered at {family}, and saw the client's real address");
        let holds = answered(&got, "web", &stage.shop, SECRET);
        screen.prove(&claim, holds, || outcome(&got))?;
        let sent = logs
            .0
            .wait(&[("direction", "outbound"), ("pod", "default/shop")])?;
        let came = logs
            .1
            .wait(&[("direction", "inbound"), ("pod", "default/web")])?;
        for (node, line) in [(&stage.node_a, &sent), (&stage.node_b, &came)] {
            tell(screen, node, line);
        }
        let holds = [&sent, &came].into_iter().all(|line| {
            line["source_identity"] == stage.shop.identity()
                && line["destination_identity"] == stage.web.identity()
                && line["security"] == "mutual_tls"
                && line["tls_version"] == "TLSv1.3"
                && line["outcome"] == "ok"
        });
        screen.prove(
            "both agents saw both identities, proven by certificates under TLS 1.3",
            holds,
            || format!("{sent}\n{came}"),
        )?;
    }
    screen.conclude(
        "An unmodified curl reached an unmodified nginx, and both nodes know who talked to whom.",
    );
    capture.stop()
}

/// The line of the access log in words.
fn tell(screen: &Screen, node: &Node, line: &Value) {
    screen.say(format!(
        "{} logged: {} {} {}",
        node.name(),
        field(line, "direction"),
        field(line, "tls_version"),
        field(line, "tls_suite")
    ));
    screen.say(format!("        from {}", field(line, "source_identity")));
    screen.say(format!(
        "        to   {}",
        field(line, "destination_identity")
    ));
}
