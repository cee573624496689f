//! The CNI plugin as a container runtime runs it: the executable and the entry that the
//! agent put into the runtime's folders, against that agent.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Node, Pod, PodSpec};
use isthmus_tests::wait::wait_until;
use serde_json::{Value, json};

use crate::asked::{Crossing, crossing};
use crate::pair::Pair;

const LIST: &str =
    "{\"cniVersion\": \"1.0.0\", \"name\": \"net\",\n  \"plugins\": [{\"type\": \"bridge\"}]}\n";

/// The runtime's folders, beside those of the node's agent.
struct Runtime {
    conf: PathBuf,
    bin: PathBuf,
}

impl Runtime {
    /// Of the node, whose agents keep the chain from now on.
    fn of(node: &Node, pair: &Pair) -> Result<Self> {
        let root = pair
            .mesh
            .config()
            .with_file_name(format!("cni-{}", node.name()));
        let runtime = Self {
            conf: root.join("net.d"),
            bin: root.join("bin"),
        };
        fs::create_dir_all(&runtime.conf)?;
        fs::create_dir(&runtime.bin)?;
        fs::write(runtime.list(), LIST)?;
        let (conf, bin) = (runtime.conf.display(), runtime.bin.display());
        let options = [
            format!("--cni-conf-dir={conf}"),
            format!("--cni-bin-dir={bin}"),
        ];
        node.set_options(&options.each_ref().map(String::as_str));
        Ok(runtime)
    }

    fn list(&self) -> PathBuf {
        self.conf.join("10-net.conflist")
    }

    /// The plugin's entry, as the agent wrote it.
    fn entry(&self) -> Result<Option<Value>> {
        let list: Value = serde_json::from_slice(&fs::read(self.list())?)?;
        let last = list["plugins"].as_array().and_then(|all| all.last());
        Ok(last.filter(|last| last["type"] == "isthmus").cloned())
    }

    fn wait_chained(&self) -> Result<()> {
        wait_until("the plugin is in the chain", || {
            self.entry().is_ok_and(|entry| entry.is_some())
        })
    }

    /// Starts the plugin for a sandbox of the pod.
    fn start(&self, command: &str, pod: &Pod) -> Result<Child> {
        let mut config = self.entry()?.context("no plugin in the chain")?;
        let ips: Vec<_> = pod
            .addresses()
            .iter()
            .map(|ip| json!({"address": format!("{ip}/24")}))
            .collect();
        config["cniVersion"] = json!("1.0.0");
        config["name"] = json!("net");
        config["prevResult"] = json!({"cniVersion": "1.0.0", "ips": ips});
        let uid = pod.uid();
        let (namespace, name) = uid.split_once('/').unwrap_or_default();
        let mut child = Command::new(self.bin.join("isthmus"))
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", "c0ffee")
            .env("CNI_NETNS", pod.netns().path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.bin)
            .env(
                "CNI_ARGS",
                format!(
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
                     K8S_POD_INFRA_CONTAINER_ID=c0ffee;K8S_POD_UID=u1"
                ),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut input = child.stdin.take().context("no standard input")?;
        input.write_all(config.to_string().as_bytes())?;
        Ok(child)
    }

    /// Runs it to its end.
    fn run(&self, command: &str, pod: &Pod) -> Result<Output> {
        Ok(self.start(command, pod)?.wait_with_output()?)
    }
}

/// The error that the plugin answered with.
fn refusal(output: &Output) -> Result<Value> {
    ensure!(!output.status.success(), "not refused: {output:?}");
    let said = serde_json::from_slice(&output.stdout);
    said.with_context(|| format!("no error in {output:?}"))
}

/// The plugin returns when the pod is enrolled, not before: what the pod sends first is
/// encrypted. Without an agent no pod starts, and every pod can go.
#[test]
fn core_a_pod_starts_in_the_mesh_or_not_at_all() -> Result<()> {
    let pair = Pair::prepare()?;
    let runtime = Runtime::of(&pair.a, &pair)?;
    pair.start_agents()?;
    runtime.wait_chained()?;
    let _echo = pair.server.serve("serve echo")?;

    let mut late = pair.a.pod_with(PodSpec::new("late").outside())?;
    let mut waiting = runtime.start("ADD", &late)?;
    ensure!(waiting.try_wait()?.is_none(), "it did not wait for the pod");
    late.configure()?;
    let added = waiting.wait_with_output()?;
    ensure!(added.status.success(), "{added:?}");
    let result: Value = serde_json::from_slice(&added.stdout)?;
    ensure!(result["ips"].is_array(), "{result}");
    ensure!(crossing(&pair.mesh, &late, &pair.server)? == Crossing::Encrypted);
    let status = runtime.run("STATUS", &late)?;
    ensure!(status.status.success(), "{status:?}");

    pair.a.kill9()?;
    let refused = refusal(&runtime.run("ADD", &late)?)?;
    let sentence = refused["msg"].as_str().unwrap_or_default();
    ensure!(
        sentence.starts_with("isthmus: the node's agent is not ready (")
            && sentence.ends_with("; the pod is tried again"),
        "{refused}"
    );
    // Told by the plugin, it would make the whole node NotReady.
    let status = runtime.run("STATUS", &late)?;
    ensure!(status.status.success(), "{status:?}");
    let deleted = runtime.run("DEL", &late)?;
    ensure!(
        deleted.status.success() && deleted.stdout.is_empty(),
        "{deleted:?}"
    );

    pair.a.start()?;
    let added = runtime.run("ADD", &late)?;
    ensure!(added.status.success(), "{added:?}");
    ensure!(crossing(&pair.mesh, &late, &pair.server)? == Crossing::Encrypted);
    Ok(())
}

/// A pod that cannot be enrolled is refused with the reason; one outside the mesh is let
/// through.
#[test]
fn a_refused_pod_has_the_reason_in_its_events() -> Result<()> {
    let pair = Pair::prepare()?;
    let runtime = Runtime::of(&pair.a, &pair)?;
    pair.start_agents()?;
    runtime.wait_chained()?;
    let other = PodSpec::new("plain").label("isthmus.dev/mesh", "disabled");
    let other = pair.a.pod_with(other)?;
    let added = runtime.run("ADD", &other)?;
    ensure!(added.status.success(), "{added:?}");

    let unknown = pair.a.pod_with(PodSpec::new("unknown").outside())?;
    let refused = refusal(&runtime.run("ADD", &unknown)?)?;
    let sentence = refused["msg"].as_str().unwrap_or_default();
    ensure!(
        refused["code"] == 11 && sentence.contains("the agent has not heard of the pod yet"),
        "{refused}"
    );
    Ok(())
}

/// Another tool that writes the list anew does not get the plugin out of it.
#[test]
fn the_agent_keeps_the_chain() -> Result<()> {
    let pair = Pair::prepare()?;
    let runtime = Runtime::of(&pair.a, &pair)?;
    pair.start_agents()?;
    runtime.wait_chained()?;
    fs::write(runtime.list(), LIST)?;
    runtime.wait_chained()?;
    pair.a.terminate()?;
    ensure!(
        runtime.entry()?.is_some(),
        "pods could start ungated while the agent is away"
    );
    Ok(())
}
