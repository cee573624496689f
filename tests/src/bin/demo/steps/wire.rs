//! What an eavesdropper on the bridge got of it.

use anyhow::Result;
use isthmus_tests::capture::Recording;

use super::request::SECRET;
use super::{answered, curl, outcome};
use crate::nginx;
use crate::screen::Screen;
use crate::stage::Stage;

/// The HBONE port, on which meshed pods talk.
pub(super) const HBONE: u16 = 15008;

/// `recording` is of the requests from shop to web.
pub(super) fn show(screen: &mut Screen, stage: &Stage, recording: &Recording) -> Result<()> {
    screen.step("The same requests, seen by an eavesdropper on the bridge");
    let tunnels = recording.tls13_connections(HBONE);
    screen.say(format!("{} frames were captured.", recording.frames()));
    for tunnel in &tunnels {
        screen.say(format!("TLS 1.3: {} -> {}", tunnel.from, tunnel.to));
    }
    let expected = stage.web.addresses().iter().all(|address| {
        tunnels.iter().any(|tunnel| {
            tunnel.to.ip() == *address && stage.shop.addresses().contains(&tunnel.from.ip())
        })
    });
    let directions = || format!("{:?}", recording.directions().collect::<Vec<_>>());
    screen.prove(
        "shop and web talked TLS 1.3 on port 15008, over IPv4 and IPv6",
        expected,
        directions,
    )?;
    let beside = recording.beside(HBONE);
    screen.prove(
        "nothing else on the bridge carried data",
        beside.is_empty(),
        || format!("{beside:?}"),
    )?;
    screen.prove(
        &format!("the secret {SECRET} is nowhere in the capture"),
        !recording.contains(SECRET.as_bytes()),
        || "the secret, in the clear".to_owned(),
    )?;

    screen.say(
        "To be sure that the capture would show a leak: the same between two outside the mesh.",
    );
    let capture = stage.mesh.capture()?;
    let to = stage.plain.v4(nginx::PORT).to_string();
    let got = curl(screen, &stage.stranger, "stranger", &to, SECRET)?;
    let recording = capture.stop()?;
    let holds =
        answered(&got, "plain", &stage.stranger, SECRET) && recording.contains(SECRET.as_bytes());
    screen.prove(
        "without the mesh, the same capture reads the secret in the clear",
        holds,
        || {
            format!(
                "{} frames without it, and {}",
                recording.frames(),
                outcome(&got)
            )
        },
    )?;
    screen.conclude("Between the nodes there is TLS 1.3 on port 15008, and no plaintext.");
    Ok(())
}
