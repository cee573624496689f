//! Pods come, change and go while the agent runs, and while traffic does.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Mesh, Mtls, Pod, PodSpec};
use isthmus_tests::process::Process;
use isthmus_tests::wait::{patience, until, wait_until};
use nix::sys::signal::Signal;

use crate::pair::{Banner, Pair, ensure_reset};

/// A pod that appears in the folder is enrolled at once, one that is taken out is released.
#[test]
fn core_enrolled_and_released_by_a_file() -> Result<()> {
    let pair = Pair::start()?;
    let outsider = pair.mesh.outsider("outsider")?;
    let _server = outsider.serve("serve banner outside")?;
    let mut late = pair.a.pod_with(PodSpec::new("late").outside())?;
    let carried = |pair: &Pair| -> Result<usize> {
        Ok(pair
            .a
            .access_log()?
            .iter()
            .filter(|line| line["pod"] == "default/late")
            .count())
    };
    let to = outsider.v4(8080);
    ensure!(
        Banner::of(&late.client(&format!("connect {to}"))?)?.name == "outside",
        "before"
    );
    late.configure()?;
    pair.a.wait_enrolled(&late)?;
    ensure!(
        carried(&pair)? == 0,
        "the agent carried a pod that was not enrolled"
    );
    ensure!(
        Banner::of(&late.client(&format!("connect {to}"))?)?.name == "outside",
        "enrolled"
    );
    pair.a
        .wait_access("the enrolled pod's connection", |line| {
            line["pod"] == "default/late"
        })?;
    late.forget()?;
    wait_until("the pod is unknown", || {
        pair.a.workload("default/late").is_ok_and(|w| w.is_none())
    })?;
    let before = carried(&pair)?;
    wait_until("its traffic goes its own way again", || {
        let seen = late.client(&format!("connect {to}"));
        seen.is_ok_and(|seen| Banner::of(&seen).is_ok())
            && carried(&pair).is_ok_and(|now| now == before)
    })
}

/// A connection that is stopped in the middle, so that it is older than what comes next.
fn stopped_transfer(from: &Pod, server: &Process, to: std::net::SocketAddr) -> Result<Process> {
    let before = server.stdout().matches("accepted").count();
    let client = from.start(&format!("transfer {to} --bytes {}", 64 << 20))?;
    wait_until("the connection was accepted", || {
        server.stdout().matches("accepted").count() > before
    })?;
    client.signal(Signal::SIGSTOP)?;
    Ok(client)
}

fn finish(mut client: Process) -> Result<Option<bool>> {
    client.signal(Signal::SIGCONT)?;
    let status = client.wait()?;
    let equal = serde_json::from_str::<serde_json::Value>(&client.stdout())
        .ok()
        .and_then(|seen| seen["equal"].as_bool());
    ensure!(
        status.success() == equal.is_some(),
        "{status}: {}",
        client.stdout()
    );
    Ok(equal)
}

/// Under PERMISSIVE, connections older than enrolment live on.
#[test]
fn core_permissive_enrolment_cuts_nothing() -> Result<()> {
    let pair = Pair::start()?;
    let outsider = pair.mesh.outsider("outsider")?;
    let outside = outsider.serve("serve transfer")?;
    let mut late = pair.a.pod_with(PodSpec::new("late").outside())?;
    let inside = late.serve("serve transfer")?;
    let outbound = stopped_transfer(&late, &outside, outsider.v4(8080))?;
    let inbound = stopped_transfer(&outsider, &inside, late.v6(8080))?;
    late.configure()?;
    pair.a.wait_enrolled(&late)?;
    ensure!(
        finish(outbound)? == Some(true),
        "the outbound connection was cut"
    );
    ensure!(
        finish(inbound)? == Some(true),
        "the inbound connection was cut"
    );
    Ok(())
}

/// Under STRICT those that are plaintext are reset and counted, and no other.
#[test]
fn core_strict_enrolment_cuts_plaintext_alone() -> Result<()> {
    let pair = Pair::prepare()?;
    pair.mesh.mtls(Mtls::Strict)?;
    pair.start_agents()?;
    let outsider = pair.mesh.outsider("outsider")?;
    let outside = outsider.serve("serve transfer")?;
    let mut late = pair.a.pod_with(PodSpec::new("late").outside())?;
    let inside = late.serve("serve transfer")?;
    let outbound = stopped_transfer(&late, &outside, outsider.v4(8080))?;
    let inbound = stopped_transfer(&outsider, &inside, late.v6(8080))?;
    let loopback = stopped_transfer(&late, &inside, "127.0.0.1:8080".parse()?)?;
    let own = stopped_transfer(&late, &inside, late.v4(8080))?;
    let server = pair.server.serve("serve transfer")?;
    let tunnelled = stopped_transfer(&pair.client, &server, pair.server.v4(8080))?;
    late.configure()?;
    pair.a.wait_enrolled(&late)?;
    ensure!(
        finish(outbound)?.is_none(),
        "the outbound connection lived on"
    );
    ensure!(
        finish(inbound)?.is_none(),
        "the inbound connection lived on"
    );
    ensure!(finish(loopback)? == Some(true), "loopback was cut");
    ensure!(
        finish(own)? == Some(true),
        "the pod's connection to itself was cut"
    );
    ensure!(
        finish(tunnelled)? == Some(true),
        "a tunnelled connection was cut"
    );
    let reset = pair
        .a
        .metric("isthmus_plaintext_connections_reset_total", &[])?;
    ensure!((reset - 2.0).abs() < f64::EPSILON, "{reset} were counted");
    Ok(())
}

/// The mode changes while the agent runs: what was relayed as plaintext is cut, tunnels are not.
#[test]
fn the_mode_changes() -> Result<()> {
    let pair = Pair::start()?;
    let outsider = pair.mesh.outsider("outsider")?;
    let server = pair.server.serve("serve transfer")?;
    let plain = stopped_transfer(&outsider, &server, pair.server.v4(8080))?;
    let tunnelled = stopped_transfer(&pair.client, &server, pair.server.v4(8080))?;
    pair.mesh.mtls(Mtls::Strict)?;
    wait_until("the server's pod is strict", || {
        pair.b
            .workload("default/server")
            .is_ok_and(|w| w.is_some_and(|w| w["mode"] == "STRICT"))
    })?;
    ensure_reset(&outsider.client(&format!("connect {} --send hello", pair.server.v4(8080)))?)?;
    ensure!(finish(plain)?.is_none(), "plaintext lived on under STRICT");
    ensure!(finish(tunnelled)? == Some(true), "a tunnel was cut");
    pair.mesh.mtls(Mtls::Permissive)?;
    wait_until("plaintext is relayed again", || {
        outsider
            .client(&format!("transfer {} --bytes 10", pair.server.v4(8080)))
            .is_ok_and(|seen| seen["equal"] == true)
    })
}

/// Pods come and go by the dozen while two others talk: those notice nothing.
#[test]
fn enrolment_and_release_under_load() -> Result<()> {
    let pair = Pair::start()?;
    let _server = pair.server.serve("serve banner blue")?;
    let mut churn = (0..12)
        .map(|n| {
            pair.a
                .pod_with(PodSpec::new(&format!("churn-{n}")).outside())
        })
        .collect::<Result<Vec<_>>>()?;
    let mut flood = pair.client.start(&format!(
        "flood --threads 4 --seconds 10 --targets {}=blue",
        pair.server.v4(8080)
    ))?;
    while flood.is_running()? {
        for pod in &mut churn {
            pod.configure()?;
        }
        for pod in &churn {
            pair.a.wait_enrolled(pod)?;
        }
        let seen = churn[0].client(&format!("connect {}", pair.server.v4(8080)))?;
        ensure!(Banner::of(&seen)?.name == "blue", "{seen}");
        for pod in &mut churn {
            pod.forget()?;
        }
        wait_until("all are released", || {
            pair.a
                .workload("default/churn-11")
                .is_ok_and(|w| w.is_none())
        })?;
    }
    ensure!(flood.wait()?.success(), "{}", flood.stdout());
    let seen: serde_json::Value = serde_json::from_str(&flood.stdout())?;
    let clean = ["wrong", "errors"]
        .iter()
        .all(|key| seen[key].as_object().is_some_and(serde_json::Map::is_empty));
    ensure!(clean && seen["right"].as_u64() > Some(100), "{seen}");
    Ok(())
}

/// 500 pods at once, on one node.
#[test]
fn five_hundred_pods() -> Result<()> {
    let mesh = Mesh::new()?;
    let node = mesh.node("a")?;
    let pods = (0..500)
        .map(|n| node.pod(&format!("pod-{n}")))
        .collect::<Result<Vec<_>>>()?;
    node.start()?;
    let mut enrolled = 0;
    until(
        "500 pods are enrolled",
        patience(120),
        || {
            let all = node.cli("workloads")?;
            enrolled = all
                .as_array()
                .into_iter()
                .flatten()
                .filter(|w| w["state"] == "enrolled")
                .count();
            Ok((enrolled == 500).then_some(()))
        },
        String::new,
    )
    .with_context(|| format!("{enrolled} were"))?;
    let _server = pods[499].serve("serve banner last")?;
    for n in [0, 100, 498] {
        let seen = pods[n].client(&format!("connect {}", pods[499].v6(8080)))?;
        ensure!(Banner::of(&seen)?.name == "last", "{n}: {seen}");
    }
    let line = node.wait_access("pod-498", |line| line["pod"] == "default/pod-498")?;
    ensure!(line["source_identity"] == pods[498].identity(), "{line}");
    Ok(())
}

/// A pod is deleted and another identity gets its address, while the client's node still
/// believes in the old one: the handshake fails, and the newcomer receives nothing.
#[test]
fn an_address_is_used_again() -> Result<()> {
    let mut pair = Pair::prepare()?;
    pair.a.freeze_configuration()?;
    pair.start_agents()?;
    let addresses: Vec<IpAddr> = pair.server.addresses().to_vec();
    let to = pair.server.v4(8080);
    {
        let _server = pair.server.serve("serve banner old")?;
        ensure!(
            Banner::of(&pair.client.client(&format!("connect {to}"))?)?.name == "old",
            "before"
        );
    }
    let newcomer = PodSpec::new("newcomer").addresses(&addresses);
    // The old pod is deleted first, with its namespace and its cgroup.
    let placeholder = pair.b.pod_with(PodSpec::new("placeholder").outside())?;
    drop(std::mem::replace(&mut pair.server, placeholder));
    wait_until("the old pod is gone", || {
        pair.b.workload("default/server").is_ok_and(|w| w.is_none())
    })?;
    let newcomer = pair.b.pod_with(newcomer)?;
    pair.b.wait_enrolled(&newcomer)?;
    let server = newcomer.serve("serve echo")?;
    for _ in 0..3 {
        let seen = pair
            .client
            .client(&format!("connect {to} --send for-the-old-one"))?;
        ensure_reset(&seen)?;
    }
    let line = pair.a.wait_access("the wrong identity", |line| {
        line["reason"] == "UPSTREAM_WRONG_IDENTITY"
    })?;
    ensure!(line["dst"] == to.to_string(), "{line}");
    ensure!(
        server.stdout() == "ready\n",
        "the newcomer got: {}",
        server.stdout()
    );
    Ok(())
}

/// A pod's namespace goes away under a running agent; the rest goes on.
#[test]
fn a_pod_vanishes() -> Result<()> {
    let pair = Pair::prepare()?;
    let doomed = pair.a.pod("doomed")?;
    pair.start_agents()?;
    pair.a.wait_enrolled(&doomed)?;
    let _server = pair.server.serve("serve banner blue")?;
    drop(doomed);
    wait_until("it is unknown", || {
        pair.a.workload("default/doomed").is_ok_and(|w| w.is_none())
    })?;
    ensure!(
        Banner::of(
            &pair
                .client
                .client(&format!("connect {}", pair.server.v4(8080)))?
        )?
        .name
            == "blue",
        "the rest"
    );
    Ok(())
}
