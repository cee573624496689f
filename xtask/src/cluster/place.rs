//! Where a cluster's parts lie: names, folders, addresses. Everything follows from its name, so
//! that any run finds what any other run left.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The nodes of every cluster.
pub(crate) const NODES: [Node; 2] = [Node(1), Node(2)];

/// The control plane's address on the bridge; DNS answers there too.
pub(super) const CONTROL: &str = "10.77.0.1";
/// The same in IPv6.
pub(super) const CONTROL_V6: &str = "fd77::1";
/// Where ClusterIPs come from.
pub(super) const SERVICES: &str = "10.96.0.0/16,fd96::/112";
/// Where pods' addresses come from.
pub(super) const PODS: &str = "10.244.0.0/16,fd44::/48";

/// A machine of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Node(u8);

impl Node {
    /// The node that is called so.
    pub(super) fn named(name: &str) -> Result<Self> {
        let found = NODES.into_iter().find(|node| node.name() == name);
        found.with_context(|| format!("no node is called `{name}`: there are n1 and n2"))
    }

    pub(super) fn name(self) -> String {
        format!("n{}", self.0)
    }

    pub(super) fn address(self) -> String {
        format!("10.77.0.1{}", self.0)
    }

    pub(super) fn address_v6(self) -> String {
        format!("fd77::1{}", self.0)
    }

    pub(super) fn pods(self) -> String {
        format!("10.244.{}.0/24", self.0)
    }

    pub(super) fn pods_v6(self) -> String {
        format!("fd44:0:0:{}::/64", self.0)
    }
}

/// One cluster of this machine.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    name: String,
}

impl Place {
    /// Names of network interfaces and cgroups are made of it, hence its few letters.
    pub(super) fn named(name: &str) -> Result<Self> {
        let fits = (1..=20).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        ensure!(
            fits,
            "--name {name}: give 1 to 20 lower-case letters, digits and hyphens"
        );
        Ok(Self {
            name: name.to_owned(),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Everything the cluster keeps; removed with it.
    pub(super) fn folder(&self) -> Result<PathBuf> {
        Ok(cache()?.join("clusters").join(&self.name))
    }

    /// A file or folder of the cluster's.
    pub(super) fn file(&self, name: impl AsRef<Path>) -> Result<PathBuf> {
        Ok(self.folder()?.join(name))
    }

    /// What a node keeps over a reboot: its disk.
    pub(super) fn disk(&self, node: Node) -> Result<PathBuf> {
        self.file(node.name())
    }

    /// The control plane's network namespace, with the bridge in it.
    pub(super) fn control_netns(&self) -> String {
        format!("isthmus-{}-cp", self.name)
    }

    pub(super) fn netns(&self, node: Node) -> String {
        format!("isthmus-{}-{}", self.name, node.name())
    }

    /// The cluster's directory in each hierarchy of cgroups.
    pub(super) fn cgroup(&self) -> PathBuf {
        format!("isthmus-cluster-{}", self.name).into()
    }

    /// The process that holds the node's namespaces, as this machine numbers it.
    pub(super) fn first_process(&self, node: Node) -> Result<u32> {
        let file = self.file(format!("{}.pid", node.name()))?;
        let text = fs::read_to_string(&file).with_context(|| {
            format!(
                "reading {}: is the node {} up?",
                file.display(),
                node.name()
            )
        })?;
        text.trim()
            .parse()
            .with_context(|| format!("{} holds no process id", file.display()))
    }
}

/// What is kept between runs, outside the repository: `$XDG_CACHE_HOME/isthmus`, else `~/.cache/isthmus`.
pub(super) fn cache() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| set("HOME").map(|home| home.join(".cache")));
    base.map(|base| base.join("isthmus"))
        .context("neither XDG_CACHE_HOME nor HOME is set: set one, it says where to keep downloads")
}
