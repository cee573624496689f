//! The agents killed, with nobody there to tell the kernel anything; and back again.

use anyhow::Result;
use isthmus_tests::capture::Recording;
use isthmus_tests::mesh::Pod;

use super::wire::HBONE;
use super::{answered, curl, outcome};
use crate::screen::Screen;
use crate::stage::Stage;

const SECRET: &str = "marker-2w8x5d";

pub(super) fn show(screen: &mut Screen, stage: &Stage) -> Result<()> {
    screen.step("Both agents killed with -9");
    let capture = stage.mesh.capture()?;
    let before = stage.nginx_log()?;
    for node in [&stage.node_a, &stage.node_b] {
        let pid = node.pid()?;
        node.kill9()?;
        screen.command(node.name(), &format!("kill -9 {pid}"));
    }
    let to = stage.web().to_string();
    for (client, name) in [(&stage.shop, "shop"), (&stage.stranger, "stranger")] {
        let got = curl(screen, client, name, &to, SECRET)?;
        screen.prove(
            &format!("with the agents dead, {name} does not reach web"),
            !got.status.success() && got.stdout.is_empty(),
            || outcome(&got),
        )?;
    }
    let recording = capture.stop()?;
    screen.say(format!("{} frames were captured.", recording.frames()));
    let attempts = attempts(&recording, &stage.shop);
    screen.prove(
        "not one connection attempt left shop",
        attempts.is_empty(),
        || attempts.join(", "),
    )?;
    screen.prove(
        "the secret is nowhere in the capture: refused, not leaked",
        !recording.contains(SECRET.as_bytes()),
        || "the secret, in the clear".to_owned(),
    )?;
    let after = stage.nginx_log()?;
    screen.prove("nginx heard of none of it", before == after, || {
        after.clone()
    })?;
    screen.conclude("An agent killed with -9 leaves nothing open: traffic is refused, not leaked.");
    Ok(())
}

pub(super) fn back(screen: &mut Screen, stage: &Stage) -> Result<()> {
    screen.step("The agents are back");
    let capture = stage.mesh.capture()?;
    for node in [&stage.node_a, &stage.node_b] {
        node.start()?;
        screen.say(format!(
            "{} runs again, process {}.",
            node.name(),
            node.pid()?
        ));
    }
    stage.wait_enrolled()?;
    let to = stage.service.to_string();
    let got = curl(screen, &stage.shop, "shop", &to, SECRET)?;
    screen.prove(
        "traffic flows again",
        answered(&got, "web", &stage.shop, SECRET),
        || outcome(&got),
    )?;
    let recording = capture.stop()?;
    let tunnels = recording.tls13_connections(HBONE);
    screen.prove(
        "inside TLS 1.3 and nowhere else, as before",
        !tunnels.is_empty()
            && recording.beside(HBONE).is_empty()
            && !recording.contains(SECRET.as_bytes()),
        || format!("{:?}", recording.directions().collect::<Vec<_>>()),
    )?;
    screen.conclude("Its successor takes over what stands in the kernel, and traffic flows.");
    Ok(())
}

/// The SYNs that came from a pod, in words.
fn attempts(recording: &Recording, pod: &Pod) -> Vec<String> {
    recording
        .syns()
        .iter()
        .filter(|syn| pod.addresses().contains(&syn.from.ip()))
        .map(|syn| format!("{} -> {}", syn.from, syn.to))
        .collect()
}
