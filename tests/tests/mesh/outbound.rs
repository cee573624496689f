//! The way out of a pod: where an original destination leads, and what the application and the
//! access log are told when it leads nowhere.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use isthmus_tests::mesh::{Mtls, Node, Pod, PodSpec};
use isthmus_tests::traffic::Talk;
use serde_json::Value;

use crate::pair::{Banner, Pair, ensure_reset};

/// A workload's own address: over mutual TLS, with both identities in the log of both nodes.
#[test]
fn a_workloads_address_is_reached_with_identities() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let _blue = pair.server.serve("serve banner blue")?;
    for to in [pair.server.v4(8080), pair.server.v6(8080)] {
        let seen = pair.client.client(&format!("connect {to}"))?;
        ensure!(seen["connected"] == true, "{seen}");
        for (node, direction) in [(&pair.a, "outbound"), (&pair.b, "inbound")] {
            let line = line_to(node, &to.to_string())?;
            ensure!(
                line["direction"] == direction
                    && line["outcome"] == "ok"
                    && line["source_identity"] == pair.client.identity()
                    && line["destination_identity"] == pair.server.identity()
                    && line["tls_version"] == "TLSv1.3",
                "{line}"
            );
        }
    }
    Ok(())
}

/// An address outside the mesh is relayed as plain TCP, from the pod's own address.
#[test]
fn an_address_outside_is_relayed_as_plain_tcp() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let outside = pair.mesh.outsider("outside")?;
    let _server = outside.serve("serve banner outside")?;
    for (to, own) in [
        (outside.v4(8080), pair.client.v4(0).ip()),
        (outside.v6(8080), pair.client.v6(0).ip()),
    ] {
        let seen = relayed_as_plain(&pair, to)?;
        let banner = Banner::of(&seen)?;
        ensure!(
            banner.name == "outside" && banner.accept.ip() == own,
            "{seen}"
        );
        ensure!(seen["getpeername"] == to.to_string(), "{seen}");
    }
    Ok(())
}

/// What the client saw of a `banner` server that it reached in the clear, by its agent.
fn relayed_as_plain(pair: &Pair, to: SocketAddr) -> Result<Value> {
    let capture = pair.mesh.capture()?;
    let seen = pair.client.client(&format!("connect {to}"))?;
    let banner = format!("{} accept=", Banner::of(&seen)?.name);
    ensure!(
        capture.stop()?.contains(banner.as_bytes()),
        "not in the clear: {seen}"
    );
    let line = line_to(&pair.a, &to.to_string())?;
    ensure!(
        line["outcome"] == "ok" && line["tls_version"].is_null(),
        "{line}"
    );
    Ok(seen)
}

/// A pod that the configuration knows and that is not in the mesh is reached as plain TCP.
#[test]
fn an_unmeshed_workload_is_reached_as_plain_tcp() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    pair.mesh.write(
        "namespace-plain",
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: plain\n",
    )?;
    let plain = pair.b.pod_with(PodSpec::new("db").namespace("plain"))?;
    pair.a.wait_state(&plain.uid(), "outside-mesh")?;
    let _server = plain.serve("serve banner plain")?;
    for to in [plain.v4(8080), plain.v6(8080)] {
        let seen = relayed_as_plain(&pair, to)?;
        ensure!(Banner::of(&seen)?.name == "plain", "{seen}");
    }
    Ok(())
}

/// A closed port, in the mesh and outside, and a network without a way: the application gets a
/// reset, and the log the reason.
#[test]
fn core_upstream_failure_is_a_reset_with_its_reason() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let outside = pair.mesh.outsider("outside")?;
    let agentless = pair.mesh.node("three")?;
    let abandoned = agentless.pod("abandoned")?;
    pair.a.wait_state(&abandoned.uid(), "remote")?;
    pair.client
        .netns()
        .ip("route add unreachable 192.0.2.0/24")?;
    pair.client
        .netns()
        .ip("-6 route add unreachable 2001:db8::/32")?;
    for (to, reason) in [
        (pair.server.v4(9), "APP_REFUSED"),
        (pair.server.v6(9), "APP_REFUSED"),
        (outside.v4(9), "UPSTREAM_REFUSED"),
        (outside.v6(9), "UPSTREAM_REFUSED"),
        // In the mesh, and nothing answers on 15008 there.
        (abandoned.v4(80), "UPSTREAM_REFUSED"),
        ("192.0.2.1:80".parse()?, "UPSTREAM_UNREACHABLE"),
        ("[2001:db8::1]:80".parse()?, "UPSTREAM_UNREACHABLE"),
    ] {
        for flags in ["", "--send request --to-end", "--nonblocking", "--mptcp"] {
            let seen = pair.client.client(&format!("connect {to} {flags}"))?;
            ensure_reset(&seen).map_err(|e| e.context(format!("{to} {flags}")))?;
        }
        let line = line_to(&pair.a, &to.to_string())?;
        ensure!(
            line["outcome"] == "failed" && line["reason"] == reason,
            "{to}: {line}"
        );
    }
    Ok(())
}

/// An address that two pods claim leads nowhere, whoever of them listens.
#[test]
fn a_disputed_address_is_refused() -> Result<()> {
    let pair = Pair::new(Mtls::Permissive)?;
    let rival = pair.b.pod_with(PodSpec::new("rival").outside())?;
    let mut claim = rival.yaml()?;
    for (own, disputed) in rival.addresses().iter().zip(pair.server.addresses()) {
        claim = claim.replace(&format!("\"{own}\""), &format!("\"{disputed}\""));
    }
    let _blue = pair.server.serve("serve banner blue")?;
    let seen = pair
        .client
        .client(&format!("connect {}", pair.server.v4(8080)))?;
    ensure!(
        seen["connected"] == true && seen["errno"].is_null(),
        "{seen}"
    );
    pair.a.after(|| pair.mesh.write("pod-rival", &claim))?;
    let capture = pair.mesh.capture()?;
    for to in [pair.server.v4(8080), pair.server.v6(8080)] {
        let seen = pair.client.client(&format!("connect {to} --send secret"))?;
        ensure_reset(&seen)?;
        pair.a.wait_access("the refusal", |line| {
            line["dst"] == to.to_string()
                && line["outcome"] == "denied"
                && line["reason"] == "DESTINATION_UNKNOWN"
        })?;
    }
    let recording = capture.stop()?;
    ensure!(
        recording.directions().count() == 0,
        "somebody was sent something"
    );
    Ok(())
}

/// A policy that comes while an address is in dispute cuts the running connections that it denies,
/// as it does without a dispute.
#[test]
fn policy_change_cuts_inbound_connections_to_a_disputed_address() -> Result<()> {
    let mut pair = Pair::prepare()?;
    // The client's node knows of neither, so that the server's own has to act.
    pair.a.freeze_configuration()?;
    pair.start_agents()?;
    let _echo = pair.server.serve("serve echo")?;
    let talk = Talk::open(&pair.client, pair.server.v4(8080))?;
    let rival = pair.b.pod_with(PodSpec::new("rival").outside())?;
    let mut claim = rival.yaml()?;
    for (own, disputed) in rival.addresses().iter().zip(pair.server.addresses()) {
        claim = claim.replace(&format!("\"{own}\""), &format!("\"{disputed}\""));
    }
    pair.b.after(|| pair.mesh.write("pod-rival", &claim))?;
    talk.ask()?;
    let deny = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                metadata: {name: deny, namespace: default}\n\
                spec: {selector: {matchLabels: {app: server}}, action: DENY, rules: [{}]}\n";
    pair.mesh.write("deny", deny)?;
    ensure!(talk.end()? == "ECONNRESET");
    let line = pair.b.wait_access("the connection that was cut", |line| {
        line["direction"] == "inbound" && line["outcome"] == "cut"
    })?;
    ensure!(line["reason"] == "POLICY_CHANGED", "{line}");
    Ok(())
}

/// While a file of the configuration could never be read, who is in the mesh is reached and
/// nobody else: the address may belong to a workload that the file names.
#[test]
fn an_incomplete_configuration_refuses_the_unknown() -> Result<()> {
    let pair = Pair::new(Mtls::Permissive)?;
    let outside = pair.mesh.outsider("outside")?;
    let _servers = [
        pair.server.serve("serve banner blue")?,
        outside.serve("serve banner outside")?,
    ];
    pair.a.kill9()?;
    pair.mesh.write("broken", "apiVersion: v1\nkind: [Pod\n")?;
    pair.a.start()?;
    pair.a.wait_state(&pair.client.uid(), "enrolled")?;
    let known = |pod: &Pod| pod.client(&format!("connect {}", pair.server.v4(8080)));
    ensure!(
        known(&pair.client)?["errno"].is_null(),
        "{}",
        known(&pair.client)?
    );
    let capture = pair.mesh.capture()?;
    for to in [outside.v4(8080), outside.v6(8080)] {
        let seen = pair.client.client(&format!("connect {to} --send secret"))?;
        ensure_reset(&seen)?;
        let line = line_to(&pair.a, &to.to_string())?;
        ensure!(
            line["outcome"] == "denied" && line["reason"] == "DESTINATION_UNKNOWN",
            "{line}"
        );
    }
    let recording = capture.stop()?;
    let leaks = recording
        .directions()
        .filter(|direction| outside.addresses().contains(&direction.to.ip()));
    ensure!(leaks.count() == 0, "something was sent");
    pair.mesh.remove("broken")?;
    isthmus_tests::wait::wait_until("the mended configuration is in force", || {
        let seen = pair.client.client(&format!("connect {}", outside.v4(8080)));
        seen.is_ok_and(|seen| seen["errno"].is_null())
    })
}

/// The line about a connection to this original destination.
fn line_to(node: &Node, to: &str) -> Result<Value> {
    node.wait_access(to, |line| line["dst"] == to)
}
