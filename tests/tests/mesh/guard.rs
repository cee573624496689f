//! The guard: nothing crosses a pod's border around the agent, whoever tries and whether or not
//! an agent runs.

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Mtls, PodSpec};
use isthmus_tests::wait::{patience, until};

use crate::pair::{Pair, counted, ensure_reset};

/// A packet that a program made itself opens no connection, in neither family, although the mode
/// is PERMISSIVE; the drop is counted, and the agent tells of it.
#[test]
fn core_a_raw_syn_does_not_leave_the_pod() -> Result<()> {
    let pair = Pair::new(Mtls::Permissive)?;
    let outside = pair.mesh.outsider("outside")?;
    let capture = pair.mesh.capture()?;
    for to in [outside.v4(80), outside.v6(80), pair.server.v4(80)] {
        let before = counted(&pair.a, "guard_egress_new_connection")?;
        let seen = pair.client.client(&format!("raw-syn {to}"))?;
        ensure!(
            seen["sent"] == false && seen["errno"] == "EPERM",
            "{to}: {seen}"
        );
        let after = counted(&pair.a, "guard_egress_new_connection")?;
        ensure!(after == before + 1, "{to}: {before} drops, then {after}");
    }
    let recording = capture.stop()?;
    ensure!(recording.syns().is_empty(), "{:?}", recording.syns());
    until(
        "the agent tells of the drop",
        patience(30),
        || {
            let log = pair.a.log()?;
            let told = log.iter().any(|line| {
                line["target"] == "kernel" && line["kind"] == "guard_egress_new_connection"
            });
            Ok(told.then_some(()))
        },
        || pair.a.log_tail(),
    )
}

/// Without its agent a pod can neither open nor take connections, not even on the tunnel's own
/// port, while what stays in the pod and what is not TCP goes on; with the agent back all is well.
#[test]
fn core_a_pod_without_its_agent_is_closed() -> Result<()> {
    let pair = Pair::new(Mtls::Permissive)?;
    let (pod, outside) = (&pair.client, pair.mesh.outsider("outside")?);
    let _servers = [
        pod.serve("serve banner inside --listen [::]:8080")?,
        pod.serve("serve banner tunnel --listen [::]:15008")?,
        outside.serve("serve banner outside --listen [::]:8080")?,
        outside.serve("udp-echo --listen [::]:84")?,
    ];
    pair.a.kill9()?;
    let capture = pair.mesh.capture()?;
    for to in [outside.v4(8080), outside.v6(8080), pair.server.v4(8080)] {
        for flags in ["", "--nonblocking", "--mptcp", "--fastopen --send secret"] {
            let seen = pod.client(&format!("connect {to} {flags}"))?;
            ensure!(
                seen["connected"] == false && seen["errno"] == "ECONNREFUSED",
                "{to} {flags}: {seen}"
            );
        }
    }
    for to in [pod.v4(8080), pod.v6(8080), pod.v4(15008), pod.v6(15008)] {
        let seen = outside.client(&format!("connect {to}"))?;
        ensure!(
            seen["errno"] == "ECONNREFUSED",
            "from outside to {to}: {seen}"
        );
    }
    let raw = pod.client(&format!("raw-syn {}", outside.v4(8080)))?;
    ensure!(raw["errno"] == "EPERM", "{raw}");
    let seen = pod.client("connect 127.0.0.1:8080")?;
    ensure!(
        seen["read"]
            .as_str()
            .is_some_and(|r| r.starts_with("inside")),
        "{seen}"
    );
    let seen = pod.client(&format!("connect {}", pod.v6(8080)))?;
    ensure!(
        seen["read"]
            .as_str()
            .is_some_and(|r| r.starts_with("inside")),
        "{seen}"
    );
    let seen = pod.client(&format!("udp {}", outside.v4(84)))?;
    ensure!(seen["read"] == "question", "{seen}");
    let recording = capture.stop()?;
    ensure!(recording.directions().count() == 0, "TCP carried bytes");
    let own = [pod.v4(0).ip(), pod.v6(0).ip()];
    ensure!(
        !recording
            .syns()
            .iter()
            .any(|syn| own.contains(&syn.from.ip())),
        "the pod's SYNs left it: {:?}",
        recording.syns()
    );
    pair.a.start()?;
    pair.a.wait_state(&pod.uid(), "enrolled")?;
    for to in [outside.v4(8080), outside.v6(8080)] {
        let seen = pod.client(&format!("connect {to}"))?;
        ensure!(
            seen["read"]
                .as_str()
                .is_some_and(|r| r.starts_with("outside")),
            "{seen}"
        );
    }
    let seen = outside.client(&format!("connect {}", pod.v4(8080)))?;
    ensure!(
        seen["read"]
            .as_str()
            .is_some_and(|r| r.starts_with("inside")),
        "{seen}"
    );
    Ok(())
}

/// Who enters a pod's namespace from another pod's cgroup gets neither pod's identity: its
/// connections are refused, and counted.
#[test]
fn core_identity_is_not_borrowed() -> Result<()> {
    let pair = Pair::new(Mtls::Permissive)?;
    let thief = pair.a.pod("thief")?;
    pair.a.wait_state(&thief.uid(), "enrolled")?;
    let stranger = pair.a.pod_with(PodSpec::new("stranger").outside())?;
    let outside = pair.mesh.outsider("outside")?;
    let _servers = [
        pair.server.serve("serve banner blue")?,
        outside.serve("serve banner outside")?,
    ];
    let honest = pair
        .client
        .client(&format!("connect {}", pair.server.v4(8080)))?;
    ensure!(honest["connected"] == true, "{honest}");
    let capture = pair.mesh.capture()?;
    let before = counted(&pair.a, "refused_foreign_cgroup")?;
    let mut tried = 0;
    for from in [&thief, &stranger] {
        for to in [pair.server.v4(8080), pair.server.v6(8080), outside.v4(8080)] {
            for flags in ["", "--mptcp", "--nonblocking", "--fastopen --send secret"] {
                let seen = from.client_intruding(&pair.client, &format!("connect {to} {flags}"))?;
                tried += 1;
                ensure!(
                    seen["connected"] == false && seen["errno"] == "EPERM",
                    "{to} {flags}: {seen}"
                );
            }
        }
    }
    ensure!(
        counted(&pair.a, "refused_foreign_cgroup")? == before + tried,
        "not all {tried} were counted"
    );
    let recording = capture.stop()?;
    ensure!(recording.syns().is_empty(), "{:?}", recording.syns());
    Ok(())
}

/// The port of the agent's listener is no way in, neither from the pod nor from outside: who dials
/// it asked for no destination, and none is guessed.
#[test]
fn core_the_listener_cannot_be_dialled() -> Result<()> {
    let pair = Pair::start()?;
    let (pod, outside) = (&pair.client, pair.mesh.outsider("outside")?);
    let read = || Ok(std::fs::read_to_string("/proc/thread-self/net/tcp6")?);
    let listening = pod.netns().run(read)?;
    let mut ports = listening.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, state) = (words.next()?, words.nth(1)?);
        (state == "0A").then(|| u16::from_str_radix(local.rsplit(':').next()?, 16).ok())?
    });
    let port = ports
        .next()
        .with_context(|| format!("no listener in\n{listening}"))?;
    for (from, to) in [
        (pod, pod.v4(port)),
        (pod, pod.v6(port)),
        (pod, format!("127.0.0.1:{port}").parse()?),
        (pod, format!("[::1]:{port}").parse()?),
        (&outside, pod.v4(port)),
        (&outside, pod.v6(port)),
    ] {
        let seen = from.client(&format!("connect {to} --send hello --to-end"))?;
        ensure_reset(&seen)?;
        let reason = "NO_ORIGINAL_DESTINATION";
        pair.a
            .wait_access(&format!("the refusal of {to}"), |line| {
                line["reason"] == reason && line["dst"] == to.to_string()
            })?;
    }
    Ok(())
}
