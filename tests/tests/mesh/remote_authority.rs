//! An authority outside the nodes: whom it certifies and whom not, and what its absence does to
//! traffic: nothing until certificates run out.

use std::fs;

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Mtls, Node, PodSpec};
use isthmus_tests::traffic::{Flood, Talk};
use isthmus_tests::wait::{patience, until, wait_until};
use serde_json::{Value, json};

use crate::asked::{Crossing, crossing, wait_mode};
use crate::remote::{
    Remote, certificate, ensure_none_failed, failures, logged_at, moment, serial, wait_certificate,
};

/// Pods talk by the certificates that it issued; its journal tells which, to whom and where; no
/// key is on any disk of the nodes, and none of them has an authority of its own.
#[test]
fn remote_authority_certifies_the_pods_of_each_node() -> Result<()> {
    let remote = Remote::start(["3600", "86400"])?;
    let pair = &remote.pair;
    let _echo = pair.server.serve("serve echo")?;
    ensure!(crossing(&pair.mesh, &pair.client, &pair.server)? == Crossing::Encrypted);
    for (node, pod, lifetime) in [
        (&pair.a, &pair.client, 3600.0),
        (&pair.b, &pair.server, 86400.0),
    ] {
        let entry = remote.authority.entry(&serial(node, pod)?)?;
        ensure!(
            entry["identity"] == pod.identity()
                && entry["node"] == node.name()
                && entry["state"] == "valid",
            "{entry}"
        );
        let time = |field: &str| moment(entry[field].as_str().unwrap_or_default());
        let valid = time("notAfter")? - time("time")?;
        ensure!((lifetime..lifetime + 2.0).contains(&valid), "{entry}");
        let authority = node.cli("status")?["authority"].take();
        ensure!(
            authority["kind"] == "remote"
                && authority["connected"] == true
                && authority["trust_from"] == "the authority"
                && authority["error"] == Value::Null,
            "{authority}"
        );
        for folder in [remote.authority.state_of(node), node.run_dir()] {
            ensure_no_key(&folder)?;
        }
    }
    // Two for the pods and one for its own server.
    let issued = remote.authority.list()?;
    ensure!(issued.len() == 3, "{issued:#?}");
    ensure!(fs::read_dir(pair.mesh.state())?.next().is_none());
    Ok(())
}

/// Looks through all files below `folder`, sockets apart.
fn ensure_no_key(folder: &std::path::Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            ensure_no_key(&entry.path())?;
        } else if entry.file_type()?.is_file() {
            let text = fs::read(entry.path())?;
            let text = String::from_utf8_lossy(&text);
            ensure!(!text.contains("PRIVATE KEY"), "{}", entry.path().display());
        }
    }
    Ok(())
}

/// A token is good for the pods of its node alone: with another node's, a pod has no
/// certificate and its connections are refused both ways; the authority's log and the agent's
/// status say why. With the right token it is served, without a restart.
#[test]
fn remote_authority_refuses_what_does_not_run_on_the_tokens_node() -> Result<()> {
    let remote = Remote::prepare(["3600", "3600"])?;
    let pair = &remote.pair;
    remote.authority.give_token(&pair.a, "b")?;
    pair.a.start()?;
    pair.b.start()?;
    pair.a.wait_state(&pair.client.uid(), "refusing")?;
    pair.b.wait_enrolled(&pair.server)?;
    let _servers = (
        pair.server.serve("serve echo")?,
        pair.client.serve("serve echo")?,
    );
    let seen = pair
        .client
        .client(&format!("connect {} --send x", pair.server.v4(8080)))?;
    ensure!(
        seen["errno"] == "ECONNRESET" && seen["read"] == "",
        "{seen}"
    );
    let no_credential = |direction: &'static str| {
        move |line: &Value| line["reason"] == "NO_CREDENTIAL" && line["direction"] == direction
    };
    pair.a
        .wait_access("NO_CREDENTIAL, outbound", no_credential("outbound"))?;
    let seen = pair
        .server
        .client(&format!("connect {} --send x", pair.client.v4(8080)))?;
    ensure!(
        seen["errno"] == "ECONNRESET" && seen["read"] == "",
        "{seen}"
    );
    pair.a
        .wait_access("NO_CREDENTIAL, inbound", no_credential("inbound"))?;

    let reason = format!(
        "no pod on node b is configured with the identity {}",
        pair.client.identity()
    );
    let denied = until(
        "the authority logs the denial",
        patience(30),
        || {
            let log = remote.authority.log()?;
            Ok(log
                .into_iter()
                .find(|line| line["message"] == "certificate denied"))
        },
        String::new,
    )?;
    ensure!(
        denied["node"] == "b"
            && denied["identity"] == pair.client.identity()
            && denied["reason"] == *reason,
        "{denied}"
    );
    let status = pair.a.cli("status")?;
    let error = status["authority"]["error"].to_string();
    ensure!(
        error.contains(&reason) && error.contains("a.token"),
        "{status}"
    );
    let client = pair.client.identity();
    let issued = remote.authority.list()?;
    ensure!(
        issued.iter().all(|entry| entry["identity"] != client),
        "{issued:#?}"
    );

    remote.authority.give_token(&pair.a, "a")?;
    wait_until("the agent has the pod certified", || {
        certificate(&pair.a, &pair.client).is_ok()
    })?;
    ensure!(crossing(&pair.mesh, &pair.client, &pair.server)? == Crossing::Encrypted);
    ensure!(crossing(&pair.mesh, &pair.server, &pair.client)? == Crossing::Encrypted);
    let entry = remote.authority.entry(&serial(&pair.a, &pair.client)?)?;
    ensure!(entry["node"] == "a", "{entry}");
    ensure!(pair.a.cli("status")?["authority"]["error"] == Value::Null);
    Ok(())
}

/// The authority is killed under load: not one connection fails until the certificate's last
/// second, and what is open goes on beyond. From then on new ones are refused, both ways, and
/// say why. With the authority back traffic flows again, and nothing was restarted.
#[test]
fn remote_authority_is_away_under_load() -> Result<()> {
    let remote = Remote::start(["60", "3600"])?;
    let pair = &remote.pair;
    let _servers = (
        pair.server.serve("serve banner right")?,
        pair.client.serve("serve banner right")?,
        pair.server.serve("serve echo --listen [::]:7000")?,
        pair.client.serve("serve echo --listen [::]:7000")?,
    );
    let talks = [
        Talk::open(&pair.client, pair.server.v4(7000))?,
        Talk::open(&pair.server, pair.client.v6(7000))?,
    ];
    let out = Flood::steady(&pair.client, &[(pair.server.v4(8080), "right")])?;
    let back = Flood::steady(&pair.server, &[(pair.client.v6(8080), "right")])?;
    out.wait_right()?;
    back.wait_right()?;
    remote.authority.kill9()?;

    let whose = (&pair.a, &pair.client);
    let failing = wait_certificate(whose, "renewal fails", 60, |seen| {
        Ok(seen["failed_attempts"].as_u64() > Some(0))
    })?;
    ensure!(
        failing["failing_for_s"].is_u64() && failing["error"].to_string().contains("https://"),
        "{failing}"
    );
    let text = pair.a.cli_run("status")?.success()?;
    ensure!(
        text.contains("OUTAGE IN") && text.contains("NOT CONNECTED"),
        "{text}"
    );
    let entry = remote.authority.entry(&serial(&pair.a, &pair.client)?)?;
    // Valid to the end of this second.
    let until = moment(entry["notAfter"].as_str().unwrap_or_default())?;

    out.wait_failed()?;
    back.wait_failed()?;
    talks.iter().try_for_each(Talk::ask)?;
    let expired = certificate(&pair.a, &pair.client)?;
    ensure!(expired["expires_in_s"].as_i64() <= Some(0), "{expired}");

    remote.authority.start()?;
    wait_certificate(whose, "renewal", 90, |seen| {
        Ok(seen["failing_for_s"].is_null())
    })?;
    talks.iter().try_for_each(Talk::ask)?;
    let (out, back) = (out.stop()?, back.stop()?);
    for tally in [&out, &back] {
        ensure!(
            tally["wrong"] == json!({}) && failures(tally) > 0,
            "{tally}"
        );
    }
    for (direction, tally) in [("outbound", &out), ("inbound", &back)] {
        let refused = failed_lines(&pair.a, direction)?;
        let first = refused.first().context("nothing was refused")?;
        ensure!(
            logged_at(first)? >= until,
            "{direction}: one failed before {entry}: {first}"
        );
        for line in &refused {
            let detail = line["detail"].as_str().unwrap_or_default();
            ensure!(
                line["reason"] == "NO_CREDENTIAL" && detail.contains("expired"),
                "{line}"
            );
        }
        println!("{direction}: {tally}, {} lines", refused.len());
    }
    // Beyond a rate, lines are counted in one.
    let source = pair.client.v4(0).ip().to_string();
    wait_until("every failure has a line or is counted in one", || {
        let lines = failed_lines(&pair.a, "outbound");
        let counted = counted_failures(&pair.a, &source);
        let lines = lines.and_then(|lines| Ok(lines.len() as u64 + counted?));
        lines.is_ok_and(|lines| lines == failures(&out))
    })?;
    for (from, to) in [(&pair.client, &pair.server), (&pair.server, &pair.client)] {
        let words = format!(
            "flood --threads 4 --connections 300 --targets {}=right",
            to.v4(8080)
        );
        ensure_none_failed(&from.client(&words)?, 300)?;
    }
    talks.iter().try_for_each(Talk::close)
}

/// The connections of this direction that were not carried to a good end, as they were logged.
fn failed_lines(node: &Node, direction: &str) -> Result<Vec<Value>> {
    let lines = node.access_log()?.into_iter();
    let mut lines: Vec<_> = lines
        .filter(|line| line["direction"] == direction && line["outcome"] != "ok")
        .collect();
    lines.sort_by_key(|line| line["timestamp"].as_str().map(str::to_owned));
    Ok(lines)
}

/// The failures from `source` that have no line of their own.
fn counted_failures(node: &Node, source: &str) -> Result<u64> {
    let lines = node.access_log()?.into_iter();
    let counted = lines.filter(|line| line["src"] == source && line["reason"] == "NO_CREDENTIAL");
    Ok(counted.filter_map(|line| line["count"].as_u64()).sum())
}

/// An agent that starts while the authority is away has no certificate for its pods: they are
/// refused and nothing of theirs leaves in the clear. When the authority is back they are served.
#[test]
fn remote_authority_is_away_when_an_agent_starts() -> Result<()> {
    let remote = Remote::start(["3600", "3600"])?;
    let pair = &remote.pair;
    let _servers = (
        pair.server.serve("serve echo")?,
        pair.client.serve("serve echo")?,
    );
    ensure!(crossing(&pair.mesh, &pair.client, &pair.server)? == Crossing::Encrypted);
    remote.authority.kill9()?;
    pair.a.restart()?;
    pair.a.wait_state(&pair.client.uid(), "refusing")?;
    let capture = pair.mesh.capture()?;
    for (from, to) in [
        (&pair.client, pair.server.v4(8080)),
        (&pair.client, pair.server.v6(8080)),
        (&pair.server, pair.client.v4(8080)),
    ] {
        let seen = from.client(&format!("connect {to} --send marker-Q7x"))?;
        ensure!(
            seen["read"] == "" && seen["errno"] == "ECONNRESET",
            "to {to}: {seen}"
        );
    }
    let recording = capture.stop()?;
    ensure!(
        !recording.contains(b"marker-Q7x"),
        "plaintext was on the bridge"
    );
    let around: Vec<_> = recording
        .syns()
        .iter()
        .filter(|syn| syn.to.port() != 15008)
        .cloned()
        .collect();
    ensure!(around.is_empty(), "SYNs around the agent: {around:?}");
    for direction in ["outbound", "inbound"] {
        pair.a.wait_access("NO_CREDENTIAL", |line| {
            line["reason"] == "NO_CREDENTIAL" && line["direction"] == direction
        })?;
    }
    let authority = pair.a.cli("status")?["authority"].take();
    ensure!(
        authority["connected"] == false
            && authority["error"].is_string()
            && authority["trust_from"] == "what was saved earlier",
        "{authority}"
    );

    remote.authority.start()?;
    wait_until("the agent has the pod certified", || {
        certificate(&pair.a, &pair.client).is_ok()
    })?;
    ensure!(crossing(&pair.mesh, &pair.client, &pair.server)? == Crossing::Encrypted);
    ensure!(crossing(&pair.mesh, &pair.server, &pair.client)? == Crossing::Encrypted);
    Ok(())
}

/// While the authority is away, everything else goes on at its pace: a change of the mode, and the
/// enrolment of a pod that is new, which is guarded although it has no certificate.
#[test]
fn remote_authority_that_is_away_holds_nothing_up() -> Result<()> {
    let remote = Remote::start(["3600", "3600"])?;
    let pair = &remote.pair;
    // One attempt takes up to five seconds: in turn they would outlast the patience below.
    let more = (0..14)
        .map(|n| pair.a.pod(&format!("more-{n}")))
        .collect::<Result<Vec<_>>>()?;
    let outsider = pair.mesh.outsider("outsider")?;
    let _echo = outsider.serve("serve echo --listen [::]:8080")?;
    remote.authority.kill9()?;
    pair.a.restart()?;
    let mut late = pair.a.pod_with(PodSpec::new("late").outside())?;
    late.configure()?;
    pair.mesh.mtls(Mtls::Strict)?;
    wait_mode(&pair.a, "STRICT")?;
    pair.a.wait_state(&late.uid(), "refusing")?;
    let seen = late.client(&format!("connect {} --send x", outsider.v4(8080)))?;
    ensure!(
        seen["read"] == "x\n",
        "to whoever is not in the mesh: {seen}"
    );
    let seen = outsider.client(&format!("connect {} --send x", late.v4(8080)))?;
    ensure!(
        seen["errno"] == "ECONNRESET",
        "plaintext towards it: {seen}"
    );

    remote.authority.start()?;
    for pod in more.iter().chain([&late, &pair.client]) {
        pair.a.wait_enrolled(pod)?;
    }
    Ok(())
}
