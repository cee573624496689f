//! The kubelet's probes: what the processes of its cgroup open reaches STRICT pods, whoever
//! has their address; what anybody else opens does not.

use std::os::unix::fs::symlink;

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Mesh, Mtls, Node, Pod};
use isthmus_tests::process::Process;
use isthmus_tests::traffic::Talk;
use isthmus_tests::wait::wait_until;

use crate::asked::{Crossing, counted, crossing, wait_mode};
use crate::pair::{Banner, Pair};

/// Fields go in this order.
struct Bed {
    kubelet: Kubelet,
    /// A process of its cgroup runs in the kubelet's namespace, with the kubelet's addresses.
    other: Pod,
    pair: Pair,
}

/// A cgroup with something in it, in a namespace on the bridge.
struct Kubelet {
    _process: Process,
    pod: Pod,
}

impl Kubelet {
    fn new(mesh: &Mesh) -> Result<Self> {
        let pod = mesh.outsider("kubelet")?;
        let process = pod.spawn("sleep", &["1000000"])?;
        Ok(Self {
            _process: process,
            pod,
        })
    }
}

impl Bed {
    fn new(mode: Mtls) -> Result<Self> {
        let pair = Pair::prepare()?;
        pair.mesh.mtls(mode)?;
        let kubelet = Kubelet::new(&pair.mesh)?;
        trust(&pair.b, &kubelet.pod.own_cgroup().display().to_string());
        pair.start_agents()?;
        Ok(Self {
            kubelet,
            other: pair.mesh.outsider("other")?,
            pair,
        })
    }

    /// From the kubelet's cgroup all is answered, in both families; from another nothing is.
    fn ensure_probes_and_nothing_else(&self) -> Result<()> {
        let server = &self.pair.server;
        for to in [server.v4(8080), server.v6(8080)] {
            let words = format!("connect {to} --send GET");
            let seen = self.kubelet.pod.client(&words)?;
            ensure!(seen["read"] == "GET\n", "the kubelet's to {to}: {seen}");
        }
        self.ensure_refused("")
    }

    fn ensure_refused(&self, how: &str) -> Result<()> {
        let server = &self.pair.server;
        for to in [server.v4(8080), server.v6(8080)] {
            let words = format!("connect {to} --send x {how}");
            let seen = self.other.client_intruding(&self.kubelet.pod, &words)?;
            let errno = seen["errno"].as_str().unwrap_or_default();
            let refused = ["ECONNRESET", "ECONNREFUSED"].contains(&errno);
            ensure!(
                refused && seen["read"] != "x\n",
                "another's to {to}: {seen}"
            );
            if !how.is_empty() {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn trust(node: &Node, cgroup: &str) {
    node.set_options(&["--kubelet-cgroup", cgroup]);
}

/// Under STRICT, with the answer and the way in the clear as the kubelet's are; a TCP probe
/// tells an open port from a closed one; the application sees who asks.
#[test]
fn core_probes_reach_a_strict_pod_and_nothing_else_does() -> Result<()> {
    let bed = Bed::new(Mtls::Strict)?;
    let (kubelet, server) = (&bed.kubelet.pod, &bed.pair.server);
    let _servers = (
        server.serve("serve echo")?,
        server.serve("serve banner blue --listen [::]:7000")?,
    );
    bed.ensure_probes_and_nothing_else()?;
    for (to, from) in [
        (server.v4(7000), kubelet.v4(40_404)),
        (server.v6(7000), kubelet.v6(40_406)),
    ] {
        let seen = kubelet.client(&format!("connect {to} --bind {from}"))?;
        let banner = Banner::of(&seen)?;
        ensure!(
            banner.accept == from && banner.peer == from && banner.local == to,
            "{banner:?}"
        );
    }
    for to in [server.v4(9), server.v6(9)] {
        let seen = kubelet.client(&format!("connect {to}"))?;
        ensure!(seen["errno"] == "ECONNREFUSED", "a closed port: {seen}");
    }
    ensure!(counted(&bed.pair.b, "probe")? >= 6);
    ensure!(crossing(&bed.pair.mesh, &bed.pair.client, server)? == Crossing::Encrypted);
    Ok(())
}

/// Whatever the bytes are, such as gRPC's HTTP/2 in the clear, they pass both ways.
#[test]
fn a_probe_may_be_any_protocol() -> Result<()> {
    let bed = Bed::new(Mtls::Strict)?;
    let (kubelet, server) = (&bed.kubelet.pod, &bed.pair.server);
    let _server = server.serve("serve transfer")?;
    let seen = kubelet.client(&format!("transfer {} --bytes 3000000", server.v4(8080)))?;
    ensure!(seen["equal"] == true, "{seen}");
    Ok(())
}

/// A port that was the kubelet's opens nothing for who has it next, whether the probe was
/// answered or refused. For the kubelet itself it does.
#[test]
fn a_port_is_not_trusted_after_the_kubelet() -> Result<()> {
    let bed = Bed::new(Mtls::Strict)?;
    let (kubelet, server) = (&bed.kubelet.pod, &bed.pair.server);
    // Refused first, while nothing listens.
    let from = kubelet.v4(40_501);
    let probe = format!("connect {} --send x --bind {from} --reset", server.v4(8080));
    let seen = kubelet.client(&probe)?;
    ensure!(seen["errno"] == "ECONNREFUSED", "nothing listens: {seen}");
    let _echo = server.serve("serve echo")?;
    bed.ensure_refused(&format!("--bind {from}"))?;
    for _ in 0..3 {
        let seen = kubelet.client(&probe)?;
        ensure!(seen["read"] == "x\n", "{seen}");
        bed.ensure_refused(&format!("--bind {from}"))?;
    }
    Ok(())
}

/// No agent is needed for probes: a pod is not restarted because the agent is away. An agent
/// that is told of no kubelet ends it.
#[test]
fn core_probes_outlive_the_agent() -> Result<()> {
    let bed = Bed::new(Mtls::Strict)?;
    let (kubelet, server) = (&bed.kubelet.pod, &bed.pair.server);
    let _echo = server.serve("serve echo")?;
    let talk = Talk::open(kubelet, server.v4(8080))?;
    bed.pair.b.kill9()?;
    talk.ask()?;
    bed.ensure_probes_and_nothing_else()?;
    bed.pair.b.start()?;
    bed.pair.wait_enrolled()?;
    talk.ask()?;
    bed.ensure_probes_and_nothing_else()?;

    bed.pair.b.set_options(&[]);
    bed.pair.b.restart()?;
    bed.pair.wait_enrolled()?;
    let seen = kubelet.client(&format!("connect {} --send x", server.v4(8080)))?;
    ensure!(seen["errno"] == "ECONNRESET", "nobody's kubelet: {seen}");
    let pin = bed.pair.b.pin_dir().join("links/kubelet");
    ensure!(!pin.exists(), "{} stayed", pin.display());
    Ok(())
}

/// Neither the audit nor a change to STRICT cuts a probe that is open, and none is taken for
/// something that went around the agent.
#[test]
fn an_open_probe_is_left_alone() -> Result<()> {
    let bed = Bed::new(Mtls::Permissive)?;
    let (kubelet, server) = (&bed.kubelet.pod, &bed.pair.server);
    let _echo = server.serve("serve echo")?;
    let talks = [
        Talk::open(kubelet, server.v4(8080))?,
        Talk::open(kubelet, server.v6(8080))?,
    ];
    bed.pair.mesh.mtls(Mtls::Strict)?;
    wait_mode(&bed.pair.b, "STRICT")?;
    let report = bed.pair.b.cli("audit")?;
    let pod = &report["pods"][0];
    ensure!(pod["state"] == "covered", "{report}");
    ensure!(counted(&bed.pair.b, "plaintext_reset")? == 0, "{report}");
    talks.iter().try_for_each(Talk::ask)?;
    talks.iter().try_for_each(Talk::close)
}

/// A cgroup that holds the pods, is a pod's, or holds nobody is not trusted, and the problem
/// says so; once somebody is in it, it is.
#[test]
fn what_cannot_be_the_kubelets_cgroup_is_not_trusted() -> Result<()> {
    let bed = Bed::new(Mtls::Strict)?;
    let node = &bed.pair.b;
    let _echo = bed.pair.server.serve("serve echo")?;
    let empty = bed.pair.mesh.outsider("empty")?;
    let pods = node.pods_cgroup();
    let above = pods.parent().context("a cgroup above the pods'")?;
    for (cgroup, says) in [
        (above, "holds the pods too"),
        (pods, "holds the pods too"),
        (bed.pair.server.own_cgroup(), "is a pod's control group"),
        (&pods.join("nothing-there"), "find the cgroup"),
        (empty.own_cgroup(), "no process is in"),
    ] {
        trust(node, &cgroup.display().to_string());
        node.restart()?;
        bed.pair.wait_enrolled()?;
        let problems = node.cli("problems")?.to_string();
        ensure!(
            problems.contains(says) && problems.contains("--kubelet-cgroup"),
            "{}: {problems}",
            cgroup.display()
        );
        let to = bed.pair.server.v4(8080);
        for who in [&bed.kubelet.pod, &empty] {
            let seen = who.client(&format!("connect {to} --send x"))?;
            ensure!(seen["errno"] == "ECONNRESET", "{says}: {seen}");
        }
    }
    let _somebody = empty.spawn("sleep", &["1000000"])?;
    let to = bed.pair.server.v4(8080);
    wait_until("it is trusted", || {
        let seen = empty.client(&format!("connect {to} --send x"));
        seen.is_ok_and(|seen| seen["read"] == "x\n")
    })?;
    let problems = node.cli("problems")?.to_string();
    ensure!(!problems.contains("--kubelet-cgroup"), "{problems}");
    Ok(())
}

/// A kubelet that was restarted comes back in another cgroup under the same path: that one is
/// trusted then, and the old one no more.
#[test]
fn a_kubelet_in_a_new_cgroup_is_found() -> Result<()> {
    let pair = Pair::prepare()?;
    pair.mesh.mtls(Mtls::Strict)?;
    let (first, second) = (Kubelet::new(&pair.mesh)?, Kubelet::new(&pair.mesh)?);
    let path = pair.mesh.scratch().join("kubelet");
    symlink(first.pod.own_cgroup(), &path)?;
    trust(&pair.b, &path.display().to_string());
    pair.start_agents()?;
    let _echo = pair.server.serve("serve echo")?;
    let probe = format!("connect {} --send x", pair.server.v4(8080));
    ensure!(first.pod.client(&probe)?["read"] == "x\n");
    ensure!(second.pod.client(&probe)?["errno"] == "ECONNRESET");
    std::fs::remove_file(&path)?;
    symlink(second.pod.own_cgroup(), &path)?;
    wait_until("the new one is trusted", || {
        let seen = second.pod.client(&probe);
        seen.is_ok_and(|seen| seen["read"] == "x\n")
    })?;
    let seen = first.pod.client(&probe)?;
    ensure!(seen["errno"] == "ECONNRESET", "the old one: {seen}");
    Ok(())
}
