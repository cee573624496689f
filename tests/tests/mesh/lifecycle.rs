//! A pod's way into the mesh and out of it, by the folder alone: no agent is restarted here.

use anyhow::{Result, ensure};
use isthmus_tests::mesh::PodSpec;
use isthmus_tests::traffic::{Flood, Talk};
use isthmus_tests::wait::wait_until;
use serde_json::json;

use crate::asked::{Crossing, crossing, live};
use crate::pair::Pair;

/// Added: its traffic is encrypted. Otherwise labelled: its connections go on. Taken out by its
/// label: it is on its own again, and the connections that it had in the mesh go on to their end.
#[test]
fn core_a_pod_is_enrolled_described_and_released() -> Result<()> {
    let pair = Pair::start()?;
    let mut late = pair.a.pod_with(PodSpec::new("late").outside())?;
    let _echo = pair.server.serve("serve echo")?;
    ensure!(crossing(&pair.mesh, &late, &pair.server)? == Crossing::Plain);
    late.configure()?;
    pair.a.wait_enrolled(&late)?;
    ensure!(crossing(&pair.mesh, &late, &pair.server)? == Crossing::Encrypted);

    let talk = Talk::open(&late, pair.server.v4(8080))?;
    let before = live(&pair.a, "outbound")?;
    late.reconfigure(|spec| spec.label("version", "v2"))?;
    wait_until("the label is in force", || {
        let asked = late.client(&format!("connect {} --send x", pair.server.v4(8080)));
        let labels = ["source_version=\"v2\""];
        let opened = pair.a.metric("istio_tcp_connections_opened_total", &labels);
        asked.is_ok_and(|seen| seen["read"] == "x\n") && opened.is_ok_and(|opened| opened > 0.0)
    })?;
    talk.ask()?;
    let after = live(&pair.a, "outbound")?;
    ensure!(
        after["id"] == before["id"],
        "not the same connection: {before} {after}"
    );

    late.leave()?;
    pair.a.wait_state(&late.uid(), "outside-mesh")?;
    talk.ask()?;
    ensure!(crossing(&pair.mesh, &late, &pair.server)? == Crossing::Plain);
    talk.close()
}

/// Another service account is another identity, at once.
#[test]
fn a_change_of_the_service_account_changes_the_identity() -> Result<()> {
    let mut pair = Pair::start()?;
    let _echo = pair.server.serve("serve echo")?;
    let ask = format!("connect {} --send x", pair.server.v4(8080));
    for account in ["client", "other"] {
        pair.client
            .reconfigure(|spec| spec.service_account(account))?;
        let wanted = pair.client.identity();
        wait_until("the identity is known", || {
            pair.a
                .workload(&pair.client.uid())
                .is_ok_and(|w| w.is_some_and(|w| w["identity"] == wanted))
        })?;
        pair.a.wait_enrolled(&pair.client)?;
        let seen = pair.client.client(&ask)?;
        ensure!(seen["read"] == "x\n", "{seen}");
        pair.b.wait_access("the client's identity", |line| {
            line["source_identity"] == wanted && line["outcome"] == "ok"
        })?;
    }
    Ok(())
}

/// Under PERMISSIVE what was there before the enrolment goes on, in both directions, over
/// both families; what is new is encrypted.
#[test]
fn core_permissive_enrolment_cuts_no_running_connection() -> Result<()> {
    let pair = Pair::start()?;
    let outsider = pair.mesh.outsider("outsider")?;
    let (mut late, mut later) = (
        pair.a.pod_with(PodSpec::new("late").outside())?,
        pair.b.pod_with(PodSpec::new("later").outside())?,
    );
    let _echo = (later.serve("serve echo")?, outsider.serve("serve echo")?);
    let talks = [
        Talk::open(&late, later.v4(8080))?,
        Talk::open(&late, later.v6(8080))?,
        Talk::open(&late, outsider.v4(8080))?,
        Talk::open(&outsider, later.v4(8080))?,
    ];
    late.configure()?;
    later.configure()?;
    pair.a.wait_enrolled(&late)?;
    pair.b.wait_enrolled(&later)?;
    pair.a.wait_state(&later.uid(), "remote")?;
    talks.iter().try_for_each(Talk::ask)?;
    ensure!(crossing(&pair.mesh, &late, &later)? == Crossing::Encrypted);
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
    let pair = Pair::start()?;
    let mut client = pair.a.pod_with(PodSpec::new("late").outside())?;
    let mut server = pair.b.pod_with(PodSpec::new("later").outside())?;
    let _servers = (
        server.serve("serve banner blue")?,
        pair.server.serve("serve banner red")?,
    );
    let (v4, v6) = (server.v4(8080), server.v6(8080));
    let churned = Flood::start(&client, 4, &[(v4, "blue"), (v6, "blue")])?;
    // Two that were there before, and stay: they must notice nothing.
    let steady = Flood::start(&pair.client, 2, &[(pair.server.v4(8080), "red")])?;
    for _ in 0..3 {
        churned.wait_right()?;
        server.configure()?;
        pair.b.wait_enrolled(&server)?;
        pair.a.wait_state(&server.uid(), "remote")?;
        churned.wait_right()?;
        client.configure()?;
        pair.a.wait_enrolled(&client)?;
        churned.wait_right()?;
        client.leave()?;
        pair.a.wait_state(&client.uid(), "outside-mesh")?;
        churned.wait_right()?;
        server.leave()?;
        pair.b.wait_state(&server.uid(), "outside-mesh")?;
    }
    churned.wait_right()?;
    steady.wait_right()?;
    for flood in [churned, steady] {
        let tally = flood.stop()?;
        let clean = tally["wrong"] == json!({}) && tally["errors"] == json!({});
        ensure!(clean, "{tally}");
    }
    let source = format!("source_principal=\"{}\"", client.identity());
    let tunnelled = pair.b.metric(
        "istio_tcp_connections_opened_total",
        &["connection_security_policy=\"mutual_tls\"", &source],
    )?;
    ensure!(tunnelled > 0.0, "none of the load went through the mesh");
    let refused = pair.b.metric("isthmus_connections_refused_total", &[])?;
    ensure!(
        refused == 0.0,
        "{refused} connections were refused: {:#?}",
        pair.b
            .access_log()?
            .iter()
            .filter(|l| l["outcome"] != "ok")
            .collect::<Vec<_>>()
    );
    Ok(())
}

/// The label `isthmus.dev/mesh: disabled` keeps a pod out, and takes one out that was in.
#[test]
fn a_pod_opts_out_by_its_label() -> Result<()> {
    let mut pair = Pair::start()?;
    let shy = PodSpec::new("shy").label("isthmus.dev/mesh", "disabled");
    let shy = pair.b.pod_with(shy)?;
    for node in [&pair.a, &pair.b] {
        node.wait_state(&shy.uid(), "outside-mesh")?;
    }
    let _echo = (pair.server.serve("serve echo")?, shy.serve("serve echo")?);
    ensure!(crossing(&pair.mesh, &pair.client, &shy)? == Crossing::Plain);
    ensure!(crossing(&pair.mesh, &shy, &pair.server)? == Crossing::Plain);

    ensure!(crossing(&pair.mesh, &pair.client, &pair.server)? == Crossing::Encrypted);
    pair.server
        .reconfigure(|spec| spec.label("isthmus.dev/mesh", "disabled"))?;
    for node in [&pair.a, &pair.b] {
        node.wait_state(&pair.server.uid(), "outside-mesh")?;
    }
    ensure!(crossing(&pair.mesh, &pair.client, &pair.server)? == Crossing::Plain);
    Ok(())
}

/// A pod's namespace goes away under a running agent, and its file does not: it is released,
/// the rest goes on, and a namespace that comes in its place is enrolled.
#[test]
fn a_namespace_vanishes_and_comes_back() -> Result<()> {
    let pair = Pair::start()?;
    let doomed = pair.a.pod_with(PodSpec::new("doomed").outside())?;
    pair.mesh.write("doomed", &doomed.yaml()?)?;
    pair.a.wait_enrolled(&doomed)?;
    let _echo = pair.server.serve("serve echo")?;
    let (name, uid) = (doomed.netns().name().to_owned(), doomed.uid());
    let cgroup = doomed.cgroup().map(|c| c.path().to_owned());
    drop(doomed);
    pair.a.wait_state(&uid, "not-enrolled")?;
    let problems = pair.a.workload(&uid)?.unwrap_or_default()["problems"].to_string();
    ensure!(problems.contains("isthmus.dev/netns"), "{problems}");
    ensure!(crossing(&pair.mesh, &pair.client, &pair.server)? == Crossing::Encrypted);

    let _netns = isthmus_tests::netns::Netns::create(&name)?;
    let cgroup = cgroup.unwrap_or_default();
    std::fs::create_dir(&cgroup)?;
    pair.a.wait_state(&uid, "enrolled")?;
    pair.mesh.remove("doomed")?;
    wait_until("it is released", || {
        matches!(pair.a.workload(&uid), Ok(None))
    })?;
    Ok(std::fs::remove_dir(&cgroup)?)
}
