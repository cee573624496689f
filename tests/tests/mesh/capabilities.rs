//! The capabilities that the `DaemonSet` gives its agents: with these alone an agent does all of
//! its work, and without any one of them it does not, for the reason that the README quotes.

use anyhow::{Context, Result, bail, ensure};
use isthmus_tests::capabilities::Capabilities;
use isthmus_tests::mesh::{Mtls, Node, Pod, PodSpec};
use isthmus_tests::process::Process;
use isthmus_tests::traffic::Talk;
use isthmus_tests::wait::wait_until;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::asked::{Crossing, crossing};
use crate::pair::Pair;

const MANIFEST: &str = include_str!("../../../deploy/base/agent.yaml");
const README: &str = include_str!("../../../README.md");

/// What the kernel says to who lacks a capability (EPERM) ...
const REFUSED: &str = "Operation not permitted";
/// ... and to who may not look into another process (EACCES).
const NOT_REACHED: &str = "Permission denied";
const NOT_RESET: &str = "plaintext connections cannot be reset";
const NOT_LOADED: &str = "the kernel programs could not be loaded";

/// Those of the manifest.
fn listed() -> Result<Vec<String>> {
    let manifest: Value = serde_yaml_ng::from_str(MANIFEST)?;
    let context = &manifest["spec"]["template"]["spec"]["containers"][0]["securityContext"];
    let added = context["capabilities"]["add"].as_array();
    let added = added.context("no capabilities in deploy/base/agent.yaml")?;
    Ok(added
        .iter()
        .filter_map(|it| it.as_str().map(str::to_owned))
        .collect())
}

fn all_but(left_out: &str) -> Result<Capabilities> {
    let listed = listed()?;
    let names: Vec<&str> = listed.iter().map(String::as_str).collect();
    let kept: Vec<&str> = names.into_iter().filter(|it| *it != left_out).collect();
    Capabilities::named(&kept)
}

/// A pod that has run, and talked in the clear, before the agent hears of it. Its namespace is
/// reached by one of its processes, as that of a pod which started before the agent did.
/// Fields go in this order.
struct Late {
    talk: Talk,
    _server: Process,
    process: Process,
    pod: Pod,
    _outsider: Pod,
}

impl Late {
    fn open(pair: &Pair) -> Result<Self> {
        let outsider = pair.mesh.outsider("outsider")?;
        let pod = pair.b.pod_with(PodSpec::new("late").outside())?;
        let server = pod.serve("serve echo")?;
        Ok(Self {
            talk: Talk::open(&outsider, pod.v4(8080))?,
            _server: server,
            process: pod.spawn("sleep", &["1000000"])?,
            pod,
            _outsider: outsider,
        })
    }

    fn configure(&self, pair: &Pair) -> Result<()> {
        let name = self.pod.netns().path().display().to_string();
        let by_process = format!("/proc/{}/ns/net", self.process.pid());
        let yaml = self.pod.yaml()?;
        ensure!(yaml.contains(&name), "{yaml}");
        pair.mesh.write("late", &yaml.replace(&name, &by_process))
    }
}

/// With the manifest's set, in an environment that takes privileges as the manifest does: pods
/// are enrolled whichever way their namespace is reached, the mesh carries, plaintext ends, the
/// kubelet's probes and the agent's own pass, a new agent takes over, and nothing is refused.
#[test]
fn core_the_manifests_capabilities_are_enough() -> Result<()> {
    let pair = Pair::prepare()?;
    pair.mesh.mtls(Mtls::Strict)?;
    let kubelet = pair.mesh.outsider("kubelet")?;
    let _in_its_cgroup = kubelet.spawn("sleep", &["1000000"])?;
    let cgroup = kubelet.own_cgroup().display().to_string();
    let given = all_but("")?;
    for node in [&pair.a, &pair.b] {
        node.set_capabilities(given);
        node.set_options(&["--kubelet-cgroup", &cgroup]);
    }
    pair.start_agents()?;
    ensure!(Capabilities::of_process(pair.b.pid()?)? == given);
    let _echo = pair.server.serve("serve echo")?;
    ensure!(crossing(&pair.mesh, &pair.client, &pair.server)? == Crossing::Encrypted);
    let probed = kubelet.client(&format!("connect {} --send GET", pair.server.v4(8080)))?;
    ensure!(
        probed["read"] == "GET\n",
        "a probe of the kubelet: {probed}"
    );

    let late = Late::open(&pair)?;
    late.configure(&pair)?;
    pair.b.wait_enrolled(&late.pod)?;
    let end = late.talk.end()?;
    ensure!(end == "ECONNRESET", "the plaintext ended as {end}");
    // Fails when a probe is not captured.
    pair.b.cli("audit --probe")?;

    let old = pair.b.pid()?;
    pair.b.launch_in_place()?;
    wait_until("the new agent answers and is ready", || {
        let status = pair.b.cli("status");
        status.is_ok_and(|status| status["pid"] != old && status["ready"] == true)
    })?;
    pair.b.signal_oldest(Signal::SIGTERM)?;
    let ended = pair.b.wait_oldest()?;
    ensure!(ended.success(), "the old agent ended with {ended}");
    pair.b.wait_enrolled(&late.pod)?;
    ensure!(crossing(&pair.mesh, &pair.client, &pair.server)? == Crossing::Encrypted);
    for node in [&pair.a, &pair.b] {
        let log = node.log()?;
        let refused = log.iter().find(|line| {
            let line = line.to_string();
            line.contains(REFUSED) || line.contains(NOT_REACHED) || line.contains("\"CAP_")
        });
        ensure!(refused.is_none(), "{refused:?}");
    }
    Ok(())
}

/// Without one of them, that which the README says of it.
#[test]
fn core_without_each_capability_something_fails() -> Result<()> {
    for name in listed()? {
        let pair = Pair::prepare()?;
        pair.mesh.mtls(Mtls::Strict)?;
        pair.b.set_capabilities(all_but(&name)?);
        let reason = match name.as_str() {
            "NET_ADMIN" => without_net_admin(&pair),
            "SYS_ADMIN" => does_not_start(&pair, NOT_LOADED),
            "SYS_PTRACE" => without_sys_ptrace(&pair),
            _ => bail!("nothing is known to need {name}"),
        };
        let reason = reason.with_context(|| format!("without {name}"))?;
        let row = README
            .lines()
            .find(|line| line.starts_with(&format!("| `CAP_{name}`")));
        let row = row.with_context(|| format!("no row of {name} in the README"))?;
        ensure!(
            row.contains(reason),
            "the README does not quote {reason:?}: {row}"
        );
        warned(&pair.b, &name)?;
    }
    Ok(())
}

/// Since Linux 6.5 `SYS_ADMIN` will do for attaching programs. Nothing else ends a connection
/// that is another process's.
fn without_net_admin(pair: &Pair) -> Result<&'static str> {
    if kernel()? < (6, 5) {
        return does_not_start(pair, NOT_LOADED);
    }
    pair.start_agents()?;
    let late = Late::open(pair)?;
    late.configure(pair)?;
    wait_until("the plaintext cannot be reset", || {
        let log = pair.b.log().unwrap_or_default();
        log.iter().any(|line| {
            let told = line["message"]
                .as_str()
                .is_some_and(|it| it.contains(NOT_RESET));
            told && line["error"]
                .as_str()
                .is_some_and(|it| it.contains(REFUSED))
        })
    })?;
    Ok(NOT_RESET)
}

/// Neither the namespace of a pod that was there before, nor the agent's own descriptors by its
/// child, which `audit --probe` starts.
fn without_sys_ptrace(pair: &Pair) -> Result<&'static str> {
    pair.start_agents()?;
    let late = Late::open(pair)?;
    late.configure(pair)?;
    pair.b.wait_state(&late.pod.uid(), "not-enrolled")?;
    let told = pair.b.workload(&late.pod.uid())?.unwrap_or_default();
    let problems = told["problems"].to_string();
    ensure!(problems.contains(NOT_REACHED), "{problems}");
    let probed = pair.b.cli_run("audit --probe -o json")?;
    ensure!(
        !probed.status.success() && probed.stdout.contains(NOT_REACHED),
        "{probed:?}"
    );
    Ok(NOT_REACHED)
}

fn does_not_start(pair: &Pair, reason: &'static str) -> Result<&'static str> {
    pair.b.launch()?;
    let ended = pair.b.wait_oldest()?;
    ensure!(!ended.success(), "it ended with {ended}");
    let log = pair.b.log()?;
    let told = log.iter().any(|line| {
        let error = line["error"].as_str().unwrap_or_default();
        error.contains(reason) && error.contains(REFUSED)
    });
    ensure!(told, "{}", pair.b.log_tail());
    Ok(reason)
}

/// The agent's log names the capability, with the cure.
fn warned(node: &Node, name: &str) -> Result<()> {
    let log = node.log()?;
    let line = log
        .iter()
        .find(|line| line["feature"] == format!("CAP_{name}"));
    let line = line.with_context(|| format!("no word of {name}: {}", node.log_tail()))?;
    let cure = line["cure"].as_str().unwrap_or_default();
    ensure!(cure.contains("grant it this capability"), "{line}");
    Ok(())
}

/// Major and minor version of the running kernel.
fn kernel() -> Result<(u32, u32)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => bail!("no version: {release}"),
    }
}
