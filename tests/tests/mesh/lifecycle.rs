//! A pod's way into the mesh and out of it, by the folder alone: no agent is restarted here.

use anyhow::{Result, ensure};
use isthmus_tests::mesh::{Mtls, Pod, PodSpec};
use isthmus_tests::traffic::{Flood, Talk};
use isthmus_tests::wait::wait_until;

use crate::duo::{Duo, live};

/// Added: its traffic is encrypted. Otherwise labelled: its connections go on. Taken out:
/// it is on its own again, and the connections that it had in the mesh end in order.
#[test]
fn core_a_pod_is_enrolled_described_and_released() -> Result<()> {
    let duo = Duo::running(Mtls::Permissive)?;
    let (mut client, server) = duo.pods()?;
    let _echo = server.serve("serve echo --listen [::]:8080")?;
    ensure!(crosses_as(&duo, &client, &server)? == Crossing::Encrypted);

    let talk = Talk::open(&client, server.v4(8080))?;
    let before = live(&duo.one, "outbound")?;
    client.reconfigure(|spec| spec.label("version", "v2"))?;
    wait_until("the label is in force", || {
        let asked = client.client(&format!("connect {} --send x", server.v4(8080)));
        let labels = ["source_version=\"v2\""];
        let opened = duo
            .one
            .metric("istio_tcp_connections_opened_total", &labels);
        asked.is_ok_and(|seen| seen["read"] == "x\n") && opened.is_ok_and(|opened| opened > 0.0)
    })?;
    talk.ask()?;
    let after = live(&duo.one, "outbound")?;
    ensure!(
        after["id"] == before["id"],
        "not the same connection: {before} {after}"
    );

    client.forget()?;
    wait_until("the pod is no workload any more", || {
        matches!(duo.one.workload(&client.uid()), Ok(None))
    })?;
    talk.ask()?;
    talk.close()?;
    ensure!(crosses_as(&duo, &client, &server)? == Crossing::Plain);
    Ok(())
}

/// Under PERMISSIVE what was there before the enrolment goes on, in both directions, over
/// both families; what is new is encrypted.
#[test]
fn core_permissive_enrolment_cuts_no_running_connection() -> Result<()> {
    let duo = Duo::running(Mtls::Permissive)?;
    let mut pods = (
        duo.one.pod_with(PodSpec::new("client").outside())?,
        duo.two.pod_with(PodSpec::new("server").outside())?,
    );
    let outsider = duo.mesh.outsider("outsider")?;
    let (_echo, _other) = (
        pods.1.serve("serve echo --listen [::]:8080")?,
        outsider.serve("serve echo --listen [::]:8080")?,
    );
    let talks = [
        Talk::open(&pods.0, pods.1.v4(8080))?,
        Talk::open(&pods.0, pods.1.v6(8080))?,
        Talk::open(&pods.0, outsider.v4(8080))?,
        Talk::open(&outsider, pods.1.v4(8080))?,
    ];
    for (node, pod) in [(&duo.one, &mut pods.0), (&duo.two, &mut pods.1)] {
        pod.configure()?;
        node.wait_state(&pod.uid(), "enrolled")?;
    }
    duo.one.wait_state(&pods.1.uid(), "remote")?;
    for talk in &talks {
        talk.ask()?;
    }
    ensure!(crosses_as(&duo, &pods.0, &pods.1)? == Crossing::Encrypted);
    for talk in &talks {
        talk.ask()?;
        talk.close()?;
    }
    Ok(())
}

/// Pods come and go under load: not one new connection fails, and none goes astray. A server
/// joins before its client and leaves after it, as there is nobody to tell the client's node
/// that the server's has done its part.
#[test]
fn enrolment_and_release_under_load_fail_no_connection() -> Result<()> {
    let duo = Duo::running(Mtls::Permissive)?;
    let mut client = duo.one.pod_with(PodSpec::new("client").outside())?;
    let mut server = duo.two.pod_with(PodSpec::new("server").outside())?;
    let _banner = server.serve("serve banner blue --listen [::]:80")?;
    let targets = [(server.v4(80), "blue"), (server.v6(80), "blue")];
    let flood = Flood::start(&client, 4, &targets)?;
    for _ in 0..3 {
        flood.wait_right()?;
        server.configure()?;
        duo.two.wait_state(&server.uid(), "enrolled")?;
        duo.one.wait_state(&server.uid(), "remote")?;
        flood.wait_right()?;
        client.configure()?;
        duo.one.wait_state(&client.uid(), "enrolled")?;
        flood.wait_right()?;
        client.forget()?;
        wait_until("the client is released", || {
            matches!(duo.one.workload(&client.uid()), Ok(None))
        })?;
        flood.wait_right()?;
        server.forget()?;
        wait_until("the server is released", || {
            matches!(duo.two.workload(&server.uid()), Ok(None))
        })?;
    }
    flood.wait_right()?;
    let tally = flood.stop()?;
    ensure!(
        tally["wrong"] == serde_json::json!({}) && tally["errors"] == serde_json::json!({}),
        "{tally}"
    );
    let tunnelled = duo.two.metric(
        "istio_tcp_connections_opened_total",
        &["connection_security_policy=\"mutual_tls\""],
    )?;
    ensure!(
        tunnelled > 0.0,
        "no connection went through the mesh: {tally}"
    );
    Ok(())
}

/// The label `isthmus.dev/mesh: disabled` keeps a pod out, and takes one out that was in.
#[test]
fn a_pod_opts_out_by_its_label() -> Result<()> {
    let duo = Duo::running(Mtls::Permissive)?;
    let (client, mut server) = duo.pods()?;
    let shy = PodSpec::new("shy").label("isthmus.dev/mesh", "disabled");
    let shy = duo.two.pod_with(shy)?;
    duo.two.wait_state(&shy.uid(), "outside-mesh")?;
    duo.one.wait_state(&shy.uid(), "outside-mesh")?;
    let _echo = (
        server.serve("serve echo --listen [::]:8080")?,
        shy.serve("serve echo --listen [::]:8080")?,
    );
    ensure!(crosses_as(&duo, &client, &shy)? == Crossing::Plain);
    ensure!(crosses_as(&duo, &shy, &server)? == Crossing::Plain);

    ensure!(crosses_as(&duo, &client, &server)? == Crossing::Encrypted);
    server.reconfigure(|spec| spec.label("isthmus.dev/mesh", "disabled"))?;
    duo.two.wait_state(&server.uid(), "outside-mesh")?;
    duo.one.wait_state(&server.uid(), "outside-mesh")?;
    ensure!(crosses_as(&duo, &client, &server)? == Crossing::Plain);
    Ok(())
}

/// How a request crossed the bridge.
#[derive(Debug, PartialEq)]
enum Crossing {
    Encrypted,
    Plain,
}

/// Sends a marker from one pod to the echo server of the other, which must answer.
fn crosses_as(duo: &Duo, client: &Pod, server: &Pod) -> Result<Crossing> {
    let capture = duo.mesh.capture()?;
    let seen = client.client(&format!("connect {} --send marker-Q7x", server.v4(8080)))?;
    ensure!(
        seen["read"] == "marker-Q7x\n",
        "{seen}\n{}\n{}",
        duo.one.log_tail(),
        duo.two.log_tail()
    );
    let recording = capture.stop()?;
    Ok(match recording.contains(b"marker-Q7x") {
        true => Crossing::Plain,
        false => {
            ensure!(
                !recording.tls13_connections(15008).is_empty()
                    || recording.directions().any(|d| d.to.port() == 15008),
                "neither in the clear nor in a tunnel"
            );
            Crossing::Encrypted
        }
    })
}
