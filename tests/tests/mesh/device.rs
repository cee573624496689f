//! The programs on a pod's devices: TCP that has no socket of the pod, or none that the agent
//! was handed.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use isthmus_tests::leftovers::unique_name;
use isthmus_tests::mesh::{Mtls, Node, Pod};
use isthmus_tests::netns::Netns;
use isthmus_tests::process::{Process, run};
use isthmus_tests::traffic::{Flood, Talk};
use isthmus_tests::wait::wait_until;
use serde_json::Value;

use crate::pair::{Pair, counted};

const STRANGER: &str = "192.168.77.2";

/// A network behind a pod: the pod forwards between it and its own device.
fn behind(pod: &Pod) -> Result<Netns> {
    let inner = Netns::create(&unique_name())?;
    let netns = pod.netns();
    netns.ip(&format!(
        "link add inner type veth peer name eth0 netns {}",
        inner.name()
    ))?;
    netns.ip("addr add 192.168.77.1/24 dev inner")?;
    netns.ip("link set inner up")?;
    inner.ip(&format!("addr add {STRANGER}/24 dev eth0"))?;
    inner.ip("link set eth0 up")?;
    inner.ip("route add default via 192.168.77.1")?;
    netns.sysctl("net/ipv4/ip_forward", "1")?;
    Ok(inner)
}

/// A stranger's network behind the pod, and a stranger outside who knows the way there.
struct Forwarding {
    inner: Netns,
    outside: Pod,
    _servers: [Process; 2],
}

impl Forwarding {
    fn through(pair: &Pair, pod: &Pod) -> Result<Self> {
        let outside = pair.mesh.outsider("outside")?;
        let inner = behind(pod)?;
        let way = pod.v4(0).ip();
        outside
            .netns()
            .ip(&format!("route add 192.168.77.0/24 via {way}"))?;
        let inside = outside.start_in(&inner, "serve banner inner --listen 0.0.0.0:8080")?;
        inside.wait_line(|line| line == "ready")?;
        let servers = [inside, outside.serve("serve banner outer")?];
        Ok(Self {
            inner,
            outside,
            _servers: servers,
        })
    }

    fn inner_address() -> String {
        format!("{STRANGER}:8080")
    }
}

/// Under STRICT a network behind the pod reaches nobody and is reached by nobody: its packets
/// are counted and have a line with the reason.
#[test]
fn core_device_drops_forwarded_tcp_of_a_strict_pod() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let forwarding = Forwarding::through(&pair, &pair.client)?;
    wait_guarded(&pair.a)?;
    let (inner, outside) = (&forwarding.inner, &forwarding.outside);
    let capture = pair.mesh.capture()?;
    let dropped = || counted(&pair.a, "device_ingress_forwarded_strict");
    let ways = [
        (inner, outside.v4(8080).to_string()),
        (outside.netns(), Forwarding::inner_address()),
    ];
    for (from, to) in ways {
        let before = dropped()?;
        let _trying = outside.start_in(from, &format!("connect {to}"))?;
        wait_until(&format!("a packet to {to} is dropped"), || {
            dropped().is_ok_and(|now| now > before)
        })?;
        let line = pair
            .a
            .wait_access(&format!("the refusal of {to}"), |line| {
                line["reason"] == "FORWARDED_REFUSED" && line["dst"] == to
            })?;
        ensure!(line["outcome"] == "denied", "{line}");
        ensure!(line["pod"] == pair.client.uid(), "{line}");
    }
    let recording = capture.stop()?;
    let escaped = recording
        .syns()
        .iter()
        .find(|syn| syn.from.ip().to_string() == STRANGER);
    ensure!(escaped.is_none(), "{escaped:?} left the pod");
    ensure!(recording.directions().count() == 0, "TCP carried bytes");
    let seen = pair.a.workload(&pair.client.uid())?.context("the pod")?;
    ensure!(seen["state"] == "enrolled", "{seen}");
    Ok(())
}

/// Under PERMISSIVE it passes, is counted, and the pod is called covered in part, with the
/// reason, by `workloads` and by `audit`.
#[test]
fn core_device_reports_forwarded_tcp_of_a_permissive_pod() -> Result<()> {
    let pair = Pair::new(Mtls::Permissive)?;
    let forwarding = Forwarding::through(&pair, &pair.client)?;
    wait_guarded(&pair.a)?;
    let (inner, outside) = (&forwarding.inner, &forwarding.outside);
    let good = pair.a.cli_run("audit")?;
    ensure!(good.status.success(), "{good:?}");
    let to = outside.v4(8080);
    let seen = outside.client_in(inner, &format!("connect {to}"))?;
    ensure!(has_banner(&seen, "outer"), "{seen}");
    let to = Forwarding::inner_address();
    let seen = outside.client(&format!("connect {to}"))?;
    ensure!(has_banner(&seen, "inner"), "{seen}");
    for counter in ["device_ingress_forwarded", "device_egress_forwarded"] {
        ensure!(counted(&pair.a, counter)? > 0, "{counter}");
    }
    let seen = pair.a.workload(&pair.client.uid())?.context("the pod")?;
    ensure!(seen["state"] == "partly-covered", "{seen}");
    let problem = seen["problems"][0].as_str().unwrap_or_default();
    ensure!(problem.contains("without a socket of the pod"), "{seen}");
    let audit = pair.a.cli_run("audit -o json")?;
    ensure!(audit.status.code() == Some(1), "{audit:?}");
    let report: Value = serde_json::from_str(&audit.stdout)?;
    let pod = &report["pods"][0];
    ensure!(pod["state"] == "partly-covered", "{report}");
    ensure!(pod["problems"][0]["what"] == "forwarded", "{report}");
    // Its own connections are the agent's as before.
    let _blue = pair.server.serve("serve banner blue")?;
    pair.ensure_blue()
}

/// A frame that a program made itself opens no connection, whatever the mode.
#[test]
fn core_device_drops_a_syn_of_a_packet_socket() -> Result<()> {
    for mode in [Mtls::Permissive, Mtls::Strict] {
        let pair = Pair::new(mode)?;
        let outside = pair.mesh.outsider("outside")?;
        let capture = pair.mesh.capture()?;
        for to in [outside.v4(80), pair.server.v4(80)] {
            let before = counted(&pair.a, "device_egress_new_connection")?;
            let seen = pair.client.client(&format!("frame-syn {to}"))?;
            // A packet socket is not told of a drop on every kernel.
            ensure!(seen["source_port"].is_number(), "{seen}");
            let after = counted(&pair.a, "device_egress_new_connection")?;
            ensure!(after == before + 1, "{to}: {before} drops, then {after}");
            pair.a.wait_access("the refusal", |line| {
                line["reason"] == "NOT_CAPTURED" && line["dst"] == to.to_string()
            })?;
        }
        let recording = capture.stop()?;
        ensure!(recording.syns().is_empty(), "{:?}", recording.syns());
        let seen = outside.client(&format!("frame-syn {}", pair.client.v4(80)))?;
        ensure!(seen["sent"] == true, "outside the mesh it is sent: {seen}");
    }
    Ok(())
}

/// A packet that a program of the pod sends over `lo`, where the guard on the cgroup takes it
/// for the pod's own, and has redirected to the pod's device, does not leave it.
#[test]
fn device_drops_a_syn_that_is_redirected_off_loopback() -> Result<()> {
    let pair = Pair::new(Mtls::Permissive)?;
    let outside = pair.mesh.outsider("outside")?;
    let to = outside.v4(80);
    let (own, netns) = (pair.client.v4(0).ip(), pair.client.netns());
    netns.ip(&format!("route add {}/32 dev lo src {own}", to.ip()))?;
    for words in [
        "qdisc add dev lo clsact",
        "filter add dev lo egress protocol ip u32 match u32 0 0 action mirred egress redirect dev eth0",
    ] {
        let mut command = Command::new("tc");
        command.args(["-n", netns.name()]).args(words.split(' '));
        run(command)?.success().with_context(|| words)?;
    }
    let capture = pair.mesh.capture()?;
    let before = counted(&pair.a, "device_egress_new_connection")?;
    pair.client.client(&format!("raw-syn {to}"))?;
    let after = counted(&pair.a, "device_egress_new_connection")?;
    ensure!(after == before + 1, "{before} drops, then {after}");
    let recording = capture.stop()?;
    ensure!(recording.syns().is_empty(), "{:?}", recording.syns());
    Ok(())
}

/// A socket made outside the pods' cgroup opens no connection from inside a pod, with the
/// agent running and with it killed, until the pod leaves the mesh.
#[test]
fn core_device_drops_connections_of_a_foreign_cgroup() -> Result<()> {
    let mut pair = Pair::new(Mtls::Strict)?;
    let outside = pair.mesh.outsider("outside")?;
    let _server = outside.serve("serve banner outer")?;
    let to = outside.v4(8080);
    let capture = pair.mesh.capture()?;
    {
        let _trying = outside.start_in(pair.client.netns(), &format!("connect {to}"))?;
        let line = pair.a.wait_access("the refusal", |line| {
            line["reason"] == "NOT_CAPTURED" && line["dst"] == to.to_string()
        })?;
        ensure!(line["pod"] == pair.client.uid(), "{line}");
    }
    pair.a.kill9()?;
    {
        let _trying = outside.start_in(pair.client.netns(), &format!("connect {to}"))?;
        wait_syn_sent(&pair.client)?;
    }
    let recording = capture.stop()?;
    ensure!(recording.syns().is_empty(), "{:?}", recording.syns());
    let before = filters(&pair.client)?;
    pair.a.start()?;
    pair.a.wait_enrolled(&pair.client)?;
    let after = filters(&pair.client)?;
    ensure!(
        before.len() == 2 && after.len() == 2 && before != after,
        "not replaced: {before:?} then {after:?}"
    );
    let audit = pair.a.cli_run("audit")?;
    ensure!(audit.status.success(), "{audit:?}");

    pair.client.forget()?;
    let uid = pair.client.uid();
    wait_until("the pod has left", || {
        matches!(pair.a.workload(&uid), Ok(None))
    })?;
    wait_until("its device is free", || {
        filters(&pair.client).is_ok_and(|left| left.is_empty())
    })?;
    let seen = outside.client_in(pair.client.netns(), &format!("connect {to}"))?;
    ensure!(has_banner(&seen, "outer"), "{seen}");
    Ok(())
}

/// Without its agent, `mesh-agent clean` takes the programs off the devices.
#[test]
fn clean_frees_the_devices() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    ensure!(filters(&pair.client)?.len() == 2);
    pair.a.kill9()?;
    let pins = pair.a.pin_dir().display().to_string();
    let cleaned = pair.a.cli_run(&format!("clean --pin-dir {pins}"))?;
    ensure!(cleaned.status.success(), "{cleaned:?}");
    let left = filters(&pair.client)?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

/// A process of the pod in a network of its own, as a container in the pod, is refused at
/// once, with a reason; what it does within its own network goes on.
#[test]
fn core_connect_refuses_an_inner_namespace_at_once() -> Result<()> {
    let pair = Pair::new(Mtls::Permissive)?;
    let inner = behind(&pair.client)?;
    let outside = pair.mesh.outsider("outside")?;
    let local = pair
        .client
        .start_in(&inner, "serve banner local --listen 127.0.0.1:8080")?;
    local.wait_line(|line| line == "ready")?;
    for to in [outside.v4(8080), pair.server.v4(8080)] {
        let seen = pair.client.client_in(&inner, &format!("connect {to}"))?;
        ensure!(seen["errno"] == "EPERM", "{to}: {seen}");
        let line = pair
            .a
            .wait_access(&format!("the refusal of {to}"), |line| {
                line["reason"] == "INNER_NAMESPACE" && line["dst"] == to.to_string()
            })?;
        ensure!(line["pod"] == pair.client.uid(), "{line}");
    }
    ensure!(counted(&pair.a, "refused_inner_namespace")? == 2);
    let seen = pair.client.client_in(&inner, "connect 127.0.0.1:8080")?;
    ensure!(has_banner(&seen, "local"), "{seen}");
    Ok(())
}

/// The parent of the pods' cgroups is removed and made anew while a process of a pod connects
/// all the time: no connection of the pod leaves it by itself, and the agent is handed them
/// again afterwards.
#[test]
fn core_device_holds_while_the_pods_cgroup_is_made_anew() -> Result<()> {
    let pair = Pair::new(Mtls::Permissive)?;
    let _blue = pair.server.serve("serve banner blue")?;
    let flood = Flood::start(&pair.client, 8, &[(pair.server.v4(8080), "blue")])?;
    flood.wait_right()?;
    let capture = pair.mesh.capture()?;
    let pod = pair.client.cgroup().context("a cgroup")?.path();
    let pods = pod.parent().context("the pods cgroup")?;
    let above = pods.parent().context("the cgroup above")?;
    let shelter = above.join("shelter");
    fs::create_dir(&shelter)?;
    move_all(pod, &shelter)?;
    fs::remove_dir(pod)?;
    fs::remove_dir(pods)?;
    fs::create_dir(pods)?;
    fs::create_dir(pod)?;
    move_all(&shelter, pod)?;
    fs::remove_dir(&shelter)?;
    wait_until("it is covered again", || {
        let audit = pair.a.cli_run("audit");
        audit.is_ok_and(|audit| audit.status.success())
    })?;
    pair.ensure_blue()?;
    drop(flood);
    let recording = capture.stop()?;
    let own = pair.client.addresses();
    let around = recording
        .syns()
        .iter()
        .find(|syn| own.contains(&syn.from.ip()) && syn.to.port() != 15008);
    ensure!(around.is_none(), "the pod connected by itself: {around:?}");
    let dropped = counted(&pair.a, "device_egress_new_connection")?;
    ensure!(dropped > 0, "nothing was tried meanwhile");
    Ok(())
}

/// The kernel's own answers pass: a closed port of a pod outside the mesh resets the agent's
/// connection, and connections older than the enrolment go on under PERMISSIVE, resets and
/// acknowledgements without a socket included.
#[test]
fn core_device_passes_older_connections_and_answers_of_the_kernel() -> Result<()> {
    let pair = Pair::prepare()?;
    pair.mesh.mtls(Mtls::Permissive)?;
    let outside = pair.mesh.outsider("outside")?;
    let _servers = [
        outside.serve("serve echo")?,
        pair.client.serve("serve end-first --listen [::]:81")?,
    ];
    let older = Talk::open(&pair.client, outside.v4(8080))?;
    pair.start_agents()?;
    older.ask()?;
    // The agent's socket in the pod ends first and is in TIME_WAIT when the client's FIN comes.
    for to in [pair.client.v4(81), pair.client.v6(81)] {
        let seen = outside.client(&format!("connect {to} --to-end"))?;
        ensure!(seen["ended"] == true, "{seen}");
    }
    // No socket at all: an acknowledgement from nowhere is answered with a reset.
    let before = dropped(&pair.a)?;
    older.close()?;
    ensure!(dropped(&pair.a)? == before, "the kernel's own was dropped");
    ensure!(before == 0, "{before} were dropped");
    Ok(())
}

/// What the devices' programs dropped in all.
fn dropped(node: &Node) -> Result<u64> {
    let names = [
        "device_egress_new_connection",
        "device_egress_strict",
        "device_egress_unreadable",
        "device_egress_forwarded_strict",
        "device_ingress_forwarded_strict",
        "device_ingress_local_address",
    ];
    names.iter().map(|name| counted(node, name)).sum()
}

/// Waits until an audit has put the programs on devices that are new.
fn wait_guarded(node: &Node) -> Result<()> {
    wait_until("all devices are guarded", || {
        node.cli_run("audit")
            .is_ok_and(|audit| audit.status.success())
    })
}

fn has_banner(seen: &Value, name: &str) -> bool {
    let read = seen["read"].as_str();
    read.is_some_and(|read| read.starts_with(name))
}

/// Waits until a connection waits for an answer inside the pod's namespace.
fn wait_syn_sent(pod: &Pod) -> Result<()> {
    let waiting = || -> Result<usize> {
        let table = |name: &str| {
            let path = format!("/proc/thread-self/net/{name}");
            pod.netns().run(|| Ok(fs::read_to_string(&path)?))
        };
        let lines = table("tcp")? + &table("tcp6")?;
        // State 02 of include/net/tcp_states.h is SYN_SENT.
        let is_waiting = |line: &&str| line.split_whitespace().nth(3) == Some("02");
        Ok(lines.lines().filter(is_waiting).count())
    };
    wait_until("a SYN was sent", || waiting().is_ok_and(|count| count > 0))
}

/// The programs on the pod's device, as the kernel lists them.
fn filters(pod: &Pod) -> Result<Vec<Value>> {
    let listed = pod.run("bpftool", &["-j", "net", "show", "dev", "eth0"])?;
    let listed: Value = serde_json::from_str(&listed.success()?)?;
    let filters = listed[0]["tc"].as_array();
    Ok(filters.context("a list of filters")?.clone())
}

/// Moves every process of a cgroup into another.
fn move_all(from: &Path, to: &Path) -> Result<()> {
    for pid in fs::read_to_string(from.join("cgroup.procs"))?.lines() {
        fs::write(to.join("cgroup.procs"), pid)?;
    }
    Ok(())
}
