//! Enforcement truth: whatever is taken away behind the agent's back is seen and put back, and
//! meanwhile no plaintext reaches or leaves a STRICT pod.

mod sabotage;

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use isthmus_tests::capture::Direction;
use isthmus_tests::mesh::{Mtls, Node, Pod, PodSpec};
use isthmus_tests::traffic::{Flood, Talk};
use isthmus_tests::wait::{until, wait_until};
use serde_json::{Value, json};

use crate::pair::Pair;
use sabotage::{Sabotage, programs, remove_entry, remove_filters, state};

/// Each kind of sabotage, and the audit that is asked for right after it: it says what was
/// missing, has put it back, and all is covered.
#[test]
fn core_an_audit_puts_back_whatever_was_taken_away() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let _servers = (
        pair.server.serve("serve echo")?,
        pair.client.serve("serve echo")?,
    );
    ensure_good(&audit(&pair.b)?)?;
    for Sabotage { name, what, act } in programs().into_iter().chain(state()) {
        let before = repaired(&pair.b, what)?;
        act(&pair.b, &pair.server).context(name)?;
        until(
            &format!("{name}: a repair of {what}"),
            Duration::from_secs(30),
            || {
                let report = audit(&pair.b)?;
                Ok((repaired(&pair.b, what)? > before && is_good(&report)).then_some(()))
            },
            || pair.b.log_tail(),
        )?;
        let line = pair.b.log()?.into_iter().rev().find(|line| {
            line["target"] == "audit" && line["message"] == "repaired" && line["what"] == what
        });
        ensure!(line.is_some(), "{name}: no line in the log");
        both_ways(&pair).context(name)?;
    }
    let node = pair
        .b
        .metric("isthmus_audit_pods", &["state=\"covered\""])?;
    ensure!(node == 1.0, "{node} pods are covered");
    Ok(())
}

/// The same with nobody asking: within seconds the loop has put it back, and what a stranger
/// sends to the pod, and the pod to another of the mesh, was never in the clear.
#[test]
fn nothing_passes_in_the_clear_until_the_loop_has_put_programs_back() -> Result<()> {
    nothing_passes_meanwhile(programs())
}

#[test]
fn nothing_passes_in_the_clear_until_the_loop_has_put_entries_back() -> Result<()> {
    nothing_passes_meanwhile(state())
}

fn nothing_passes_meanwhile(acts: Vec<Sabotage>) -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let outsider = pair.mesh.outsider("outsider")?;
    let _servers = (
        pair.server.serve("serve banner marker-of-the-server")?,
        pair.client.serve("serve banner marker-of-the-client")?,
    );
    let capture = pair.mesh.capture()?;
    let strangers = Flood::start(&outsider, 2, &both(&pair.server, "marker-of-the-server"))?;
    let own = Flood::start(&pair.server, 2, &both(&pair.client, "marker-of-the-client"))?;
    own.wait_right()?;
    strangers.wait_failed()?;
    for Sabotage { name, what, act } in acts {
        let before = repaired(&pair.b, what)?;
        act(&pair.b, &pair.server).context(name)?;
        wait_until(&format!("{name}: a repair of {what}"), || {
            repaired(&pair.b, what).is_ok_and(|now| now > before)
        })?;
        own.wait_right().context(name)?;
    }
    let (strangers, own) = (strangers.stop()?, own.stop()?);
    let recording = capture.stop()?;
    for marker in ["marker-of-the-server", "marker-of-the-client"] {
        ensure!(
            !recording.contains(marker.as_bytes()),
            "{marker} in the clear"
        );
    }
    let own_syn = |syn: &&Direction| {
        pair.server.addresses().contains(&syn.from.ip()) && syn.to.port() == 8080
    };
    let around = recording.syns().iter().find(own_syn);
    ensure!(around.is_none(), "the pod connected by itself: {around:?}");
    let beside = recording.beside(15008);
    ensure!(beside.is_empty(), "bytes beside the tunnel: {beside:?}");
    let none = strangers["right"] == 0 && strangers["wrong"] == json!({});
    ensure!(none, "a stranger was answered: {strangers}");
    ensure!(own["wrong"] == json!({}), "{own}");
    Ok(())
}

/// The probe's connections arrive at the agent, of either family; in a pod that is frozen
/// they do not, and the exit code says so.
#[test]
fn core_a_probe_proves_that_connections_are_captured() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let capture = pair.mesh.capture()?;
    let report = pair.b.cli("audit --probe")?;
    let probes = report["pods"][0]["probes"].as_array().context("probes")?;
    ensure!(probes.len() == 2, "{report}");
    ensure!(
        probes.iter().all(|probe| probe["captured"] == true),
        "{report}"
    );
    let recording = capture.stop()?;
    ensure!(
        recording.syns().is_empty(),
        "a probe left the pod: {:?}",
        recording.syns()
    );
    let lines = pair.b.access_log()?;
    ensure!(lines.is_empty(), "a probe is no traffic: {lines:?}");

    let cgroup = pair.server.cgroup().context("a cgroup")?.path();
    ensure!(
        !cgroup.join("isthmus-probe").exists(),
        "the probe's cgroup stayed"
    );
    fs::write(cgroup.join("cgroup.freeze"), "1")?;
    let failed = pair.b.cli_run("audit --probe")?;
    fs::write(cgroup.join("cgroup.freeze"), "0")?;
    ensure!(failed.status.code() == Some(1), "{failed:?}");
    ensure!(failed.stdout.contains("NOT CAPTURED"), "{failed:?}");
    Ok(())
}

/// What cannot be put back is said as it is, with the reason, until it can.
#[test]
fn what_cannot_be_put_back_is_said() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let pin = pair.b.pin_dir().join("links/connect4");
    fs::remove_file(&pin)?;
    // Where the pin belongs there is a folder now, unless the loop was quicker.
    wait_until("the folder is in the pin's place", || {
        let _ = fs::remove_file(&pin);
        fs::create_dir(&pin).is_ok()
    })?;
    let failed = pair.b.cli_run("audit -o json")?;
    ensure!(failed.status.code() == Some(1), "{failed:?}");
    let report: Value = serde_json::from_str(&failed.stdout)?;
    ensure!(report["pods"][0]["state"] == "uncovered", "{report}");
    let detail = report["pods"][0]["problems"][0]["detail"].to_string();
    ensure!(
        detail.contains("connect4") && detail.contains("cannot be put back"),
        "{report}"
    );
    fs::remove_dir(&pin)?;
    wait_until("the loop has pinned it again", || pin.is_file())?;
    ensure_good(&audit(&pair.b)?)
}

/// A pod whose cgroup is gone is neither covered nor uncovered: nobody can tell. Once there is
/// another in its place, that one is guarded.
#[test]
fn a_cgroup_that_is_replaced_is_guarded_again() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let cgroup = pair.server.cgroup().context("a cgroup")?.path().to_owned();
    fs::remove_dir(&cgroup)?;
    let failed = pair.b.cli_run("audit -o json")?;
    ensure!(failed.status.code() == Some(1), "{failed:?}");
    let report: Value = serde_json::from_str(&failed.stdout)?;
    ensure!(report["pods"][0]["state"] == "unknown", "{report}");
    ensure!(
        report["pods"][0]["problems"][0]["what"] == "unknown",
        "{report}"
    );
    fs::create_dir(&cgroup)?;
    wait_until("it is covered again", || {
        audit(&pair.b).is_ok_and(|report| is_good(&report))
    })?;
    ensure!(repaired(&pair.b, "pod_entry")? > 0.0);
    let _servers = (
        pair.server.serve("serve echo")?,
        pair.client.serve("serve echo")?,
    );
    both_ways(&pair)
}

/// Under PERMISSIVE what is older than the enrolment goes on and is shown; what got through a
/// gap later is cut.
#[test]
fn what_went_around_the_agent_is_cut() -> Result<()> {
    let pair = Pair::start()?;
    let outsider = pair.mesh.outsider("outsider")?;
    let _echo = outsider.serve("serve echo")?;
    let mut pod = pair.b.pod_with(PodSpec::new("late").outside())?;
    let older = Talk::open(&pod, outsider.v4(8080))?;
    pod.configure()?;
    pair.b.wait_state(&pod.uid(), "enrolled")?;
    let report = audit(&pair.b)?;
    ensure_good(&report)?;
    let shown = format!("{} -> {}", older.from()?, outsider.v4(8080));
    let of = |name: &str| {
        let pods = report["pods"].as_array();
        pods.and_then(|pods| pods.iter().find(|pod| pod["name"] == name).cloned())
    };
    let late = of("late").context("the pod")?;
    ensure!(late["older_connections"] == json!([shown]), "{late}");
    // All three holds at once, which no single fault takes away.
    let around = loop {
        remove_filters(&pod)?;
        remove_entry(&pair.b, "isthmus_cgroups", &pod)?;
        remove_entry(&pair.b, "isthmus_pods", &pod)?;
        let talk = Talk::open(&pod, outsider.v6(8080))?;
        let target = outsider.v6(8080).to_string();
        let carried = pair.b.cli("connections")?;
        let all = carried.as_array().context("connections")?;
        if !all
            .iter()
            .any(|connection| connection["destination"] == target)
        {
            break talk;
        }
        // The loop was quicker: the agent carries this one.
        talk.close()?;
    };
    let end = around.end()?;
    ensure!(end == "ECONNABORTED", "it ended as {end}");
    wait_until("the record has it", || {
        repaired(&pair.b, "bypass").is_ok_and(|n| n == 1.0)
    })?;
    older.ask()?;
    ensure_good(&audit(&pair.b)?)
}

fn both(pod: &Pod, name: &'static str) -> [(std::net::SocketAddr, &'static str); 2] {
    [(pod.v4(8080), name), (pod.v6(8080), name)]
}

/// A request in each direction, over the mesh.
fn both_ways(pair: &Pair) -> Result<()> {
    for (from, to) in [(&pair.client, &pair.server), (&pair.server, &pair.client)] {
        for address in [to.v4(8080), to.v6(8080)] {
            let seen = from.client(&format!("connect {address} --send question"))?;
            ensure!(seen["read"] == "question\n", "to {address}: {seen}");
        }
    }
    Ok(())
}

fn audit(node: &Node) -> Result<Value> {
    let done = node.cli_run("audit -o json")?;
    serde_json::from_str(&done.stdout).with_context(|| format!("{done:?}"))
}

fn repaired(node: &Node, what: &str) -> Result<f64> {
    node.metric(
        "isthmus_audit_repairs_total",
        &[&format!("what=\"{what}\"")],
    )
}

fn is_good(report: &Value) -> bool {
    let covered = |pod: &Value| pod["state"] == "covered";
    let pods = report["pods"].as_array();
    report["node_problems"] == json!([])
        && pods.is_some_and(|pods| !pods.is_empty() && pods.iter().all(covered))
}

fn ensure_good(report: &Value) -> Result<()> {
    ensure!(is_good(report), "{report:#}");
    Ok(())
}
