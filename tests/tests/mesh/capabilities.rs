//! The capabilities that the `DaemonSet` gives its agents: with these alone an agent does all of
//! its work, and without any one of them it does not, for the reason that the README quotes.

use anyhow::{Context, Result, bail, ensure};
use isthmus_tests::capabilities::Capabilities;
use isthmus_tests::mesh::{Mesh, Mtls, Node, Pod, PodSpec};
use isthmus_tests::process::Process;
use isthmus_tests::traffic::Talk;
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
const NOT_GUARDED: &str = "put isthmus_dev_in on the pod's device";
const NOT_ENTERED: &str = "cannot enter the pod's network namespace";
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

/// The listed ones but one, and others.
fn named(left_out: &str, others: &[&str]) -> Result<Capabilities> {
    let listed = listed()?;
    let kept = listed
        .iter()
        .map(String::as_str)
        .filter(|it| *it != left_out);
    let names: Vec<&str> = kept.chain(others.iter().copied()).collect();
    Capabilities::named(&names)
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
    /// The pod is in the configuration when this returns.
    fn open(mesh: &Mesh, node: &Node) -> Result<Self> {
        let outsider = mesh.outsider("outsider")?;
        let pod = node.pod_with(PodSpec::new("late").outside())?;
        let server = pod.serve("serve echo")?;
        let late = Self {
            talk: Talk::open(&outsider, pod.v4(8080))?,
            _server: server,
            process: pod.spawn("sleep", &["1000000"])?,
            pod,
            _outsider: outsider,
        };
        let name = late.pod.netns().path().display().to_string();
        let by_process = format!("/proc/{}/ns/net", late.process.pid());
        let yaml = late.pod.yaml()?;
        ensure!(yaml.contains(&name), "{yaml}");
        mesh.write("late", &yaml.replace(&name, &by_process))?;
        Ok(late)
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
    let given = named("", &[])?;
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

    let late = Late::open(&pair.mesh, &pair.b)?;
    pair.b.wait_enrolled(&late.pod)?;
    let end = late.talk.end()?;
    ensure!(end == "ECONNRESET", "the plaintext ended as {end}");
    // Fails when a probe is not captured.
    pair.b.cli("audit --probe")?;

    pair.b.take_over()?;
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
        let lacking = Lacking::new(&name)?;
        let reason = match name.as_str() {
            "NET_ADMIN" => lacking.net_admin(),
            "SYS_ADMIN" => lacking.sys_admin(),
            "SYS_PTRACE" => lacking.sys_ptrace(),
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
        warned(&lacking.node, &name)?;
    }
    Ok(())
}

/// A node whose agents lack one of the listed capabilities. Fields go in this order.
struct Lacking {
    node: Node,
    pod: Pod,
    mesh: Mesh,
}

impl Lacking {
    fn new(name: &str) -> Result<Self> {
        let mesh = Mesh::new()?;
        mesh.mtls(Mtls::Strict)?;
        let node = mesh.node("a")?;
        node.set_capabilities(named(name, &[])?);
        Ok(Self {
            pod: node.pod("pod")?,
            node,
            mesh,
        })
    }

    /// Since Linux 6.5 `SYS_ADMIN` will do for attaching programs to cgroups. Nothing else puts
    /// one on a device.
    fn net_admin(&self) -> Result<&'static str> {
        if kernel()? < (6, 5) {
            return self.does_not_start();
        }
        self.node.launch()?;
        let problems = self.not_enrolled(&self.pod)?;
        ensure!(
            problems.contains(NOT_GUARDED) && problems.contains(REFUSED),
            "{problems}"
        );
        Ok(NOT_GUARDED)
    }

    /// What loading asks of it `BPF` and `PERFMON` grant too, but not to enter a pod.
    fn sys_admin(&self) -> Result<&'static str> {
        let reason = self.does_not_start()?;
        self.node
            .set_capabilities(named("SYS_ADMIN", &["BPF", "PERFMON"])?);
        self.node.launch()?;
        let problems = self.not_enrolled(&self.pod)?;
        ensure!(
            problems.contains(NOT_ENTERED) && problems.contains(REFUSED),
            "{problems}"
        );
        ensure!(
            README.contains(NOT_ENTERED),
            "the README does not quote {NOT_ENTERED:?}"
        );
        Ok(reason)
    }

    /// Neither the namespace of a pod that was there before is reached, nor the agent's own
    /// descriptors by its child, which `audit --probe` starts.
    fn sys_ptrace(&self) -> Result<&'static str> {
        self.node.start()?;
        self.node.wait_enrolled(&self.pod)?;
        let late = Late::open(&self.mesh, &self.node)?;
        let problems = self.not_enrolled(&late.pod)?;
        ensure!(problems.contains(NOT_REACHED), "{problems}");
        let probed = self.node.cli_run("audit --probe -o json")?;
        ensure!(
            !probed.status.success() && probed.stdout.contains(NOT_REACHED),
            "{probed:?}"
        );
        Ok(NOT_REACHED)
    }

    fn does_not_start(&self) -> Result<&'static str> {
        self.node.launch()?;
        let ended = self.node.wait_oldest()?;
        ensure!(!ended.success(), "it ended with {ended}");
        let log = self.node.log()?;
        let told = log.iter().any(|line| {
            let error = line["error"].as_str().unwrap_or_default();
            error.contains(NOT_LOADED) && error.contains(REFUSED)
        });
        ensure!(told, "{}", self.node.log_tail());
        Ok(NOT_LOADED)
    }

    /// What the agent says of a pod that it does not enrol.
    fn not_enrolled(&self, pod: &Pod) -> Result<String> {
        self.node.wait_state(&pod.uid(), "not-enrolled")?;
        let told = self.node.workload(&pod.uid())?.unwrap_or_default();
        Ok(told["problems"].to_string())
    }
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
