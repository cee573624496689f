//! A client outside the mesh before a STRICT server.

use anyhow::Result;

use super::access::{LogMark, field};
use super::{curl, outcome};
use crate::screen::Screen;
use crate::stage::Stage;

pub(super) fn show(screen: &mut Screen, stage: &Stage) -> Result<()> {
    screen.step("A client outside the mesh");
    let log = LogMark::now(&stage.node_b)?;
    let got = curl(
        screen,
        &stage.stranger,
        "stranger",
        &stage.web().to_string(),
        "let-me-in",
    )?;
    screen.prove(
        "the STRICT server's agent refused the client without an identity",
        !got.status.success() && got.stdout.is_empty(),
        || outcome(&got),
    )?;
    let line = log.wait(&[("direction", "inbound"), ("pod", "default/web")])?;
    screen.say(format!(
        "node-b logged: {} {}, from {}",
        field(&line, "outcome"),
        field(&line, "reason"),
        field(&line, "src")
    ));
    screen.prove(
        "the refusal is in the access log, with its reason",
        line["outcome"] == "denied" && line["reason"] == "PLAINTEXT_REFUSED",
        || line.to_string(),
    )?;
    let served = stage.nginx_log()?;
    screen.prove(
        "nginx never heard of it",
        stage
            .stranger
            .addresses()
            .iter()
            .all(|address| !served.contains(&format!("{address} "))),
        || served.clone(),
    )?;
    screen.conclude("A STRICT server is out of reach for who has no identity.");
    Ok(())
}
