//! Addresses of the cluster that nothing has, and destinations whose tunnel port is shut: what the
//! application and the access log show.

use anyhow::{Result, ensure};
use isthmus_tests::mesh::Mtls;

use crate::pair::{Banner, Pair, ensure_reset};

fn declare(ranges: &str) -> String {
    format!(
        "apiVersion: isthmus.dev/v1alpha1
kind: MeshConfig
metadata: {{name: mesh}}
spec: {{clusterRanges: [{ranges}]}}
"
    )
}

/// An address in `spec.clusterRanges` that no object has is refused before a byte leaves; one
/// outside of them, and one that an object has, are reached.
#[test]
fn declared_range_is_never_outside_the_mesh() -> Result<()> {
    let pair = Pair::start()?;
    let mut stranger = pair.b.pod_with(
        isthmus_tests::mesh::PodSpec::new("stranger")
            .label("isthmus.dev/mesh", "disabled")
            .outside(),
    )?;
    let _banner = stranger.serve("serve banner red --listen [::]:8080")?;
    let _blue = pair.server.serve("serve banner blue --listen [::]:8080")?;
    let red = |to: std::net::SocketAddr| -> Result<bool> {
        let seen = pair.client.client(&format!("connect {to}"))?;
        Ok(Banner::of(&seen).is_ok_and(|it| it.name == "red"))
    };
    ensure!(red(stranger.v4(8080))?, "it is outside the mesh");
    pair.a
        .after(|| pair.mesh.write("settings", &declare("10.7.0.0/16")))?;
    let capture = pair.mesh.capture()?;
    let seen = pair
        .client
        .client(&format!("connect {}", stranger.v4(8080)))?;
    ensure_reset(&seen)?;
    let line = pair.a.wait_access("the refusal", |line| {
        line["reason"] == "DESTINATION_UNKNOWN"
    })?;
    let detail = line["detail"].as_str().unwrap_or_default();
    ensure!(
        detail.contains("10.7.0.0/16 (spec.clusterRanges of the MeshConfig)"),
        "{line:#}"
    );
    let recording = capture.stop()?;
    let left = |syn: &&isthmus_tests::capture::Direction| syn.to == stranger.v4(8080);
    ensure!(
        recording.syns().iter().find(left).is_none(),
        "a SYN left: {:?}",
        recording.syns()
    );
    ensure!(red(stranger.v6(8080))?, "the other family is not declared");
    pair.ensure_blue()?;
    // An object that has the address says what it is.
    pair.a.after(|| stranger.configure())?;
    ensure!(red(stranger.v4(8080))?, "it is known, and outside the mesh");
    Ok(())
}

/// The SYN to port 15008 gets no answer, as where a NetworkPolicy drops it: the reason says so.
#[test]
fn tunnel_without_an_answer_names_network_policies() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let _blue = pair.server.serve("serve banner blue --listen [::]:8080")?;
    // No route back: the kernel drops the SYN.
    let client = pair.client.v4(0).ip();
    pair.server
        .netns()
        .ip(&format!("route add blackhole {client}/32"))?;
    let seen = pair
        .client
        .client(&format!("connect {}", pair.server.v4(8080)))?;
    ensure_reset(&seen)?;
    let line = pair
        .a
        .wait_access("the failure", |line| line["reason"] == "UPSTREAM_TIMEOUT")?;
    let detail = line["detail"].as_str().unwrap_or_default();
    ensure!(
        detail.contains("NetworkPolicy") && detail.contains("15008"),
        "{line:#}"
    );
    Ok(())
}
