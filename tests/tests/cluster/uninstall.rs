//! The mesh is taken out of the cluster: its nodes are as they were, and the pods run on.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use isthmus_tests::capture::Capture;
use isthmus_tests::cluster::{Apps, Cluster, Namespace, Node};
use isthmus_tests::process;
use serde_json::Value;

use crate::disruption;

/// Sent before, in a tunnel, and after, in the clear.
const MARKERS: [&str; 2] = ["sent-through-the-mesh", "sent-without-the-mesh"];

#[test]
fn an_uninstalled_mesh_leaves_the_nodes_as_they_were() -> Result<()> {
    let cluster = Cluster::alone_with_mesh()?;
    // So this is seen to work by kubectl, too.
    cluster.uninstall_at_once()?;
    let nodes = cluster.nodes();
    for node in &nodes {
        let left = Traces::of(node)?;
        let paths = left.files.keys();
        let ours = paths.filter(|path| path.contains("isthmus"));
        ensure!(
            ours.count() == 0 && left.programs.is_empty() && left.lookups.is_empty(),
            "{} is not out of the mesh: {left:#?}",
            node.name()
        );
        // What a machine's text looks like is nobody's business.
        let file = node.path(CONFLIST)?;
        let odd = fs::read_to_string(&file)?.trim_end().to_owned() + "\n \t\n";
        fs::write(&file, odd)?;
    }
    let before = nodes.each_ref().map(Traces::of);
    cluster.install_mesh()?;
    let namespace = cluster.meshed("leave")?;
    let apps = Apps::new()
        .server("server", "n1", "serve echo")
        .client("client", "n2");
    namespace.run(&apps)?;
    disruption::wait_enrolled(&cluster, &namespace, [1, 1])?;
    let capture = Capture::start(&cluster.bridge()?)?;
    let [within, without] = MARKERS;
    echoed(&namespace, within)?;
    ensure!(
        !capture.stop()?.contains(within.as_bytes()),
        "it was not in the mesh"
    );
    for node in &nodes {
        // Or what is looked for afterwards could not be seen anyway.
        let during = Traces::of(node)?;
        let pins = during.files.keys().any(|path| path.contains("isthmus/"));
        ensure!(
            pins && !during.programs.is_empty() && !during.lookups.is_empty(),
            "the mesh is not seen on {}: {during:#?}",
            node.name()
        );
    }
    let containers = containers(&namespace)?;

    cluster.uninstall_by_command()?;

    for (node, before) in nodes.iter().zip(before) {
        let (before, after) = (before?, Traces::of(node)?);
        ensure!(
            before == after,
            "{} is not as it was: {before:#?}\nnow: {after:#?}",
            node.name()
        );
        ensure!(after.programs.is_empty(), "programs are left: {after:#?}");
    }
    ensure!(
        self::containers(&namespace)? == containers,
        "a pod was started again: before {containers:#?}"
    );
    let capture = Capture::start(&cluster.bridge()?)?;
    echoed(&namespace, without)?;
    ensure!(
        capture.stop()?.contains(without.as_bytes()),
        "what was sent after the mesh was gone did not cross the bridge in the clear"
    );
    // And pods start, without an agent.
    namespace.run(&Apps::new().client("late", "n1"))
}

const CONFLIST: &str = "/etc/cni/net.d/10-bridge.conflist";

/// What a mesh could leave on a node.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    /// Files of the folders where an agent writes; an empty folder counts as none, since the
    /// kubelet makes those that a pod mounts.
    files: BTreeMap<String, String>,
    /// Programs on the node's cgroups, by cgroup and type.
    programs: Vec<String>,
    /// Links in the network namespaces of its pods.
    lookups: Vec<String>,
}

impl Traces {
    fn of(node: &Node) -> Result<Self> {
        let mut files = BTreeMap::new();
        for folder in ["/etc/cni/net.d", "/run/isthmus", "/var/lib/isthmus"] {
            collect(&node.path(folder)?, &mut files, true)?;
        }
        // Pins cannot be read, and plugins are large.
        for folder in ["/opt/cni/bin", "/sys/fs/bpf"] {
            collect(&node.path(folder)?, &mut files, false)?;
        }
        let root = node.path("/")?.to_string_lossy().into_owned();
        let files = files
            .into_iter()
            .map(|(path, text)| (path.trim_start_matches(&root).to_owned(), text))
            .collect();
        Ok(Self {
            files,
            programs: programs(&node.cgroup()?)?,
            lookups: lookups(node)?,
        })
    }
}

fn collect(folder: &Path, files: &mut BTreeMap<String, String>, read: bool) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            collect(&path, files, read)?;
            continue;
        }
        let is_file = read && entry.file_type()?.is_file();
        // Each byte can be told, and what is text can be read.
        let text = match is_file {
            true => fs::read(&path)?.escape_ascii().to_string(),
            false => String::new(),
        };
        files.insert(path.display().to_string(), text);
    }
    Ok(())
}

/// Ours are of these types; a container runtime attaches `cgroup_device`.
fn programs(cgroup: &Path) -> Result<Vec<String>> {
    let path = cgroup.to_str().context("a cgroup's path")?;
    let tree = bpftool(&["cgroup", "tree", path])?;
    let mut found = Vec::new();
    for cgroup in tree.as_array().into_iter().flatten() {
        for program in cgroup["programs"].as_array().into_iter().flatten() {
            if program["attach_type"] != "device" && program["attach_type"] != "cgroup_device" {
                found.push(format!("{}: {program}", cgroup["cgroup"]));
            }
        }
    }
    Ok(found)
}

fn lookups(node: &Node) -> Result<Vec<String>> {
    let mut namespaces = Vec::new();
    for entry in fs::read_dir(node.path("/run/netns")?)? {
        namespaces.push(fs::metadata(entry?.path())?.ino());
    }
    let links = bpftool(&["link", "show"])?;
    let of_node = |link: &&Value| {
        let inode = link["netns_ino"].as_u64();
        inode.is_some_and(|inode| namespaces.contains(&inode))
    };
    let links = links.as_array().into_iter().flatten().filter(of_node);
    Ok(links.map(Value::to_string).collect())
}

fn bpftool(words: &[&str]) -> Result<Value> {
    let mut command = Command::new("bpftool");
    command.arg("--json").args(words);
    let told = process::run(command)?.success()?;
    serde_json::from_str(&told).with_context(|| format!("reading bpftool {words:?}"))
}

/// Sends the text from the client to the server, and hears it back.
fn echoed(namespace: &Namespace, text: &str) -> Result<()> {
    let to = namespace.address("server", 4)?;
    let answer = namespace.traffic("client", &format!("connect {to}:8080 --send {text}"))?;
    let read = answer["read"].as_str().unwrap_or_default();
    ensure!(read.trim() == text, "{answer:#}");
    Ok(())
}

/// The containers of the namespace's pods, which a restart would change.
fn containers(namespace: &Namespace) -> Result<Vec<Value>> {
    let pods = namespace.get("pods")?;
    let pods = pods["items"].as_array().context("a list of pods")?;
    let container = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    Ok(pods.iter().map(container).collect())
}
