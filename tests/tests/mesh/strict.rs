//! STRICT, when it comes over connections that are there already: by enrolment, and by a
//! change of the mesh's mode. Plaintext is reset, counted and logged, and nothing else.

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Mtls, Node, Pod, PodSpec};
use isthmus_tests::process::Process;
use isthmus_tests::traffic::Talk;
use isthmus_tests::wait::wait_until;
use serde_json::Value;

use crate::asked::{counted, wait_mode};
use crate::pair::Pair;

/// What is not the mesh's business, of one pod: loopback and the pod's own address.
struct Within {
    talks: Vec<Talk>,
    _servers: [Process; 2],
}

impl Within {
    fn open(pod: &Pod) -> Result<Self> {
        let servers = [
            pod.serve("serve echo --listen [::]:7000")?,
            pod.serve("udp-echo --listen [::]:7001")?,
        ];
        let targets = ["127.0.0.1:7000".parse()?, "[::1]:7000".parse()?];
        let own = [pod.v4(7000), pod.v6(7000)];
        let talks = targets.into_iter().chain(own);
        Ok(Self {
            talks: talks.map(|to| Talk::open(pod, to)).collect::<Result<_>>()?,
            _servers: servers,
        })
    }

    fn ensure_untouched(&self, pod: &Pod, other: &Pod) -> Result<()> {
        self.talks.iter().try_for_each(Talk::ask)?;
        for to in [pod.v4(7001), pod.v6(7001)] {
            let seen = other.client(&format!("udp {to}"))?;
            ensure!(seen["read"] == "question", "UDP to {to}: {seen}");
        }
        Ok(())
    }
}

/// Enrolled under STRICT: the pod's plaintext connections, those that it opened and those
/// that it accepted, of either family, are reset at both ends; each is counted and logged.
#[test]
fn core_strict_enrolment_resets_plaintext_and_nothing_else() -> Result<()> {
    let pair = Pair::prepare()?;
    pair.mesh.mtls(Mtls::Strict)?;
    pair.start_agents()?;
    let mut pod = pair.b.pod_with(PodSpec::new("late").outside())?;
    let outsider = pair.mesh.outsider("outsider")?;
    let within = Within::open(&pod)?;
    let _echo = (
        pod.serve("serve echo --listen [::]:8080")?,
        outsider.serve("serve echo --listen [::]:8080")?,
    );
    // Another pod of the node, which is in no mesh: its connections are its own.
    let bystander = pair.b.pod_with(PodSpec::new("bystander").outside())?;
    let untouched = Talk::open(&bystander, outsider.v4(8080))?;
    let plaintext = [
        (Talk::open(&pod, outsider.v4(8080))?, outsider.v4(8080)),
        (Talk::open(&pod, outsider.v6(8080))?, outsider.v6(8080)),
        (Talk::open(&outsider, pod.v4(8080))?, pod.v4(8080)),
        (Talk::open(&outsider, pod.v6(8080))?, pod.v6(8080)),
    ];
    pod.configure()?;
    pair.b.wait_state(&pod.uid(), "enrolled")?;
    for (talk, to) in &plaintext {
        let end = talk.end()?;
        // Whoever does the destroying tells the own application ECONNABORTED (tcp_abort).
        let own = ["ECONNABORTED", "ECONNRESET"].contains(&end.as_str());
        ensure!(own, "the connection to {to} ended as {end}");
    }
    within.ensure_untouched(&pod, &outsider)?;
    untouched.ask()?;
    wait_until("each is counted", || {
        counted(&pair.b, "plaintext_reset").is_ok_and(|reset| reset == 4)
    })?;
    ensure!(
        pair.b
            .metric("isthmus_plaintext_connections_reset_total", &[])?
            == 4.0
    );
    for (talk, to) in &plaintext {
        let (from, to) = (talk.from()?.to_string(), to.to_string());
        let line = reset_line(&pair.b, &from, &to)?;
        ensure!(line["pod"] == pod.uid(), "{line}");
    }
    Ok(())
}

/// The agent's line on a connection that it reset, whichever end was the pod's.
fn reset_line(node: &Node, from: &str, to: &str) -> Result<Value> {
    let of = |line: &Value, local: &str, remote: &str| {
        line["local"] == local && line["remote"] == remote && line["level"] == "WARN"
    };
    node.log()?
        .into_iter()
        .filter(|line| {
            line["message"]
                .as_str()
                .is_some_and(|m| m.contains("plaintext"))
        })
        .find(|line| of(line, from, to) || of(line, to, from))
        .with_context(|| format!("no line on {from} -> {to}"))
}

/// From PERMISSIVE to STRICT: the plaintext that the agent relayed to the pod is cut, with
/// its reason in the log; mesh connections and what is not the mesh's business stay; new
/// plaintext is refused. And back: it is taken again.
#[test]
fn core_a_change_to_strict_cuts_plaintext_and_keeps_the_mesh() -> Result<()> {
    let pair = Pair::start()?;
    let (client, server) = (&pair.client, &pair.server);
    let outsider = pair.mesh.outsider("outsider")?;
    let within = Within::open(server)?;
    let _echo = (
        server.serve("serve echo --listen [::]:8080")?,
        outsider.serve("serve echo --listen [::]:8080")?,
    );
    let meshed = [
        Talk::open(client, server.v4(8080))?,
        Talk::open(client, server.v6(8080))?,
    ];
    // The mode is of what comes in; to go out to whoever is not in the mesh stays allowed.
    let outward = Talk::open(client, outsider.v4(8080))?;
    let plaintext = [
        Talk::open(&outsider, server.v4(8080))?,
        Talk::open(&outsider, server.v6(8080))?,
    ];
    pair.mesh.mtls(Mtls::Strict)?;
    for talk in &plaintext {
        let end = talk.end()?;
        ensure!(end == "ECONNRESET", "plaintext ended as {end}");
        let from = talk.from()?.to_string();
        let line = pair
            .b
            .wait_access("the plaintext that was cut", |line| line["src"] == from)?;
        ensure!(
            line["outcome"] == "cut" && line["reason"] == "POLICY_CHANGED",
            "{line}"
        );
    }
    wait_mode(&pair.a, "STRICT")?;
    wait_mode(&pair.b, "STRICT")?;
    meshed.iter().try_for_each(Talk::ask)?;
    outward.ask()?;
    within.ensure_untouched(server, &outsider)?;
    let seen = outsider.client(&format!("connect {} --send x", server.v4(8080)))?;
    ensure!(seen["errno"] == "ECONNRESET", "new plaintext: {seen}");
    let seen = client.client(&format!("connect {} --send x", server.v4(8080)))?;
    ensure!(seen["read"] == "x\n", "new, in the mesh: {seen}");

    pair.mesh.mtls(Mtls::Permissive)?;
    wait_mode(&pair.b, "PERMISSIVE")?;
    let again = Talk::open(&outsider, server.v4(8080))?;
    meshed.iter().try_for_each(Talk::ask)?;
    again.close()
}

/// What is older than the enrolment outlives it under PERMISSIVE, but not the change to STRICT.
#[test]
fn a_change_to_strict_resets_what_is_older_than_the_enrolment() -> Result<()> {
    let pair = Pair::start()?;
    let mut pod = pair.b.pod_with(PodSpec::new("late").outside())?;
    let outsider = pair.mesh.outsider("outsider")?;
    let within = Within::open(&pod)?;
    let _echo = (
        pod.serve("serve echo --listen [::]:8080")?,
        outsider.serve("serve echo --listen [::]:8080")?,
    );
    let old = [
        Talk::open(&outsider, pod.v4(8080))?,
        Talk::open(&pod, outsider.v6(8080))?,
    ];
    pod.configure()?;
    pair.b.wait_state(&pod.uid(), "enrolled")?;
    old.iter().try_for_each(Talk::ask)?;
    ensure!(counted(&pair.b, "plaintext_reset")? == 0);
    pair.mesh.mtls(Mtls::Strict)?;
    for talk in &old {
        let end = talk.end()?;
        ensure!(
            ["ECONNABORTED", "ECONNRESET"].contains(&end.as_str()),
            "it ended as {end}"
        );
    }
    wait_until("each is counted", || {
        counted(&pair.b, "plaintext_reset").is_ok_and(|reset| reset == 2)
    })?;
    within.ensure_untouched(&pod, &outsider)
}
