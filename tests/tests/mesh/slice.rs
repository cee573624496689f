//! The slice: a request from a pod on one node to a pod on the other.

use anyhow::{Result, ensure};
use isthmus_tests::mesh::{Mesh, Mtls};

/// Both families, with the client's own address in front of the server, mutual TLS in
/// between, and no plaintext on the way.
#[test]
fn core_pod_to_pod_over_mutual_tls() -> Result<()> {
    let mesh = Mesh::new()?;
    mesh.mtls(Mtls::Strict)?;
    let (one, two) = (mesh.node("one")?, mesh.node("two")?);
    let (client, server) = (one.pod("client")?, two.pod("server")?);
    one.start()?;
    two.start()?;
    one.wait_state(&client.uid(), "enrolled")?;
    two.wait_state(&server.uid(), "enrolled")?;
    let _echo = server.serve("serve echo --listen [::]:8080")?;
    for to in [server.v4(8080), server.v6(8080)] {
        let capture = mesh.capture()?;
        let seen = client.client(&format!("connect {to} --send marker-Q7x"))?;
        ensure!(
            seen["read"] == "marker-Q7x\n",
            "{seen}\n{}\n{}",
            one.log_tail(),
            two.log_tail()
        );
        ensure!(seen["getpeername"] == to.to_string(), "{seen}");
        let recording = capture.stop()?;
        ensure!(
            !recording.contains(b"marker-Q7x"),
            "the marker was seen in the clear"
        );
        ensure!(
            recording.beside(15008).is_empty(),
            "{:?}",
            recording.beside(15008)
        );
        ensure!(
            !recording.tls13_connections(15008).is_empty(),
            "no TLS 1.3 on 15008"
        );
    }
    Ok(())
}
