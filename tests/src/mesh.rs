//! A small world: a bridge, nodes with the real agent, pods, clients outside, and the folder
//! of YAML that describes it.
//!
//! Values remove what they stand for when they go: a [`Pod`] its namespace and cgroup, a
//! [`Node`] its agent and pins, the [`Mesh`] the rest. Declare the mesh first and it goes last.

mod authority;
mod node;
mod objects;
mod pod;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};

pub use self::authority::Authority;
pub use self::node::Node;
pub use self::objects::{Mtls, ServicePort};
pub use self::pod::{Pod, PodSpec};
use crate::capture::Capture;
use crate::cgroup::Cgroup;
use crate::folder::Folder;
use crate::leftovers::{self, unique_name};
use crate::netns::Netns;

/// The world that a test builds.
#[derive(Debug)]
pub struct Mesh {
    world: Arc<World>,
}

/// What pods and nodes share. Fields are dropped in this order.
#[derive(Debug)]
struct World {
    name: String,
    bridge: Netns,
    cgroup: Cgroup,
    folder: Folder,
    next_host: AtomicU16,
    next_service: AtomicU16,
    nodes: Mutex<BTreeMap<String, Arc<NodeCgroups>>>,
}

/// Where a node's agent and pods run: two sibling cgroups, so that the agent is outside the pods'.
#[derive(Debug)]
struct NodeCgroups {
    agent: Cgroup,
    pods: Cgroup,
}

impl Mesh {
    /// A bridge with no pods, one namespace of the mesh (`default`) and no agent.
    ///
    /// # Errors
    /// Fails without root, iproute2 or cgroup v2.
    pub fn new() -> Result<Self> {
        leftovers::sweep();
        Self::named(unique_name())
    }

    /// The same under a name of the caller's, who sees to it that nothing of that name exists
    /// ([`leftovers::remove_world`]).
    ///
    /// # Errors
    /// Fails without root, iproute2 or cgroup v2.
    pub fn named(name: String) -> Result<Self> {
        let bridge = Netns::create(&name)?;
        bridge.ip("link add br0 type bridge")?;
        bridge.ip(&format!("addr add {GATEWAY_V4}/16 dev br0"))?;
        bridge.ip(&format!("-6 addr add {GATEWAY_V6}/64 dev br0 nodad"))?;
        bridge.ip("link set br0 up")?;
        let mesh = Self {
            world: Arc::new(World {
                cgroup: Cgroup::create(&name)?,
                folder: Folder::create(&name, &["config", "state"])?,
                bridge,
                name,
                next_host: AtomicU16::new(2),
                next_service: AtomicU16::new(1),
                nodes: Mutex::default(),
            }),
        };
        mesh.write("namespace-default", &objects::namespace("default", true))?;
        Ok(mesh)
    }

    /// A node called `name`; its agent is not running yet.
    ///
    /// # Errors
    /// Fails when its cgroups or folders cannot be made.
    pub fn node(&self, name: &str) -> Result<Node> {
        Node::create(self.world.clone(), name)
    }

    /// An authority outside the agents, which nobody serves yet.
    ///
    /// # Errors
    /// Fails when it cannot be made.
    pub fn authority(&self) -> Result<Authority> {
        Authority::create(self.world.clone())
    }

    /// The authority that the agents have in the state folder they share, for its commands.
    ///
    /// # Errors
    /// Fails when its folder cannot be made.
    pub fn embedded_authority(&self) -> Result<Authority> {
        Authority::embedded(self.world.clone())
    }

    /// A network namespace on the bridge that the mesh knows nothing of.
    ///
    /// # Errors
    /// Fails when it cannot be made.
    pub fn outsider(&self, name: &str) -> Result<Pod> {
        Pod::create(self.world.clone(), PodSpec::new(name).outside(), None)
    }

    /// Records every frame that crosses the bridge from now on.
    ///
    /// # Errors
    /// Fails when the packet socket cannot be opened.
    pub fn capture(&self) -> Result<Capture> {
        Capture::start(&self.world.bridge)
    }

    /// Writes a Service with a cluster IP of each family in front of `pods`, ready or not.
    /// Returns the two addresses.
    ///
    /// # Errors
    /// Fails when the file cannot be written.
    pub fn service(
        &self,
        name: &str,
        ports: &[ServicePort],
        pods: &[(&Pod, bool)],
    ) -> Result<(Ipv4Addr, Ipv6Addr)> {
        let [high, low] = self
            .world
            .next_service
            .fetch_add(1, Ordering::Relaxed)
            .to_be_bytes();
        let v4 = Ipv4Addr::new(10, 96, high, low);
        let v6 = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, u16::from_be_bytes([high, low]));
        self.write(
            &format!("service-{name}"),
            &objects::service(name, &[v4.into(), v6.into()], ports, pods),
        )?;
        Ok((v4, v6))
    }

    /// Sets the mode of the whole mesh: a `PeerAuthentication` in the root namespace.
    ///
    /// # Errors
    /// Fails when the file cannot be written.
    pub fn mtls(&self, mode: Mtls) -> Result<()> {
        self.write("peer-authentication", &objects::peer_authentication(mode))
    }

    /// Writes `FILE.yaml` into the folder of configuration, at once or not at all.
    ///
    /// # Errors
    /// Fails when the disk does.
    pub fn write(&self, file: &str, yaml: &str) -> Result<()> {
        self.world.write(file, yaml)
    }

    /// Removes `FILE.yaml` from the folder of configuration.
    ///
    /// # Errors
    /// Fails when it is not there.
    pub fn remove(&self, file: &str) -> Result<()> {
        self.world.remove(file)
    }

    /// The folder of configuration that all nodes read.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.world.config()
    }

    /// The folder in which the embedded authority keeps its root.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.world.folder.path().join("state")
    }

    /// A folder for a test's own files, which anybody can enter.
    #[must_use]
    pub fn scratch(&self) -> PathBuf {
        self.world.folder.path().to_owned()
    }

    /// The folder of the whole world: configuration, state, and a folder for each node.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.world.folder.path()
    }

    /// The namespace in which the bridge is.
    #[must_use]
    pub fn bridge(&self) -> &Netns {
        &self.world.bridge
    }

    /// The name that all parts of this world begin with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.world.name
    }
}

const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 1);

impl World {
    fn config(&self) -> PathBuf {
        self.folder.path().join("config")
    }

    fn write(&self, file: &str, yaml: &str) -> Result<()> {
        write_object(&self.config(), file, yaml)
    }

    fn remove(&self, file: &str) -> Result<()> {
        let target = self.config().join(format!("{file}.yaml"));
        fs::remove_file(&target).with_context(|| format!("removing {}", target.display()))
    }

    /// Two addresses that no pod of this world has had.
    fn next_addresses(&self) -> (u16, Vec<IpAddr>) {
        let host = self.next_host.fetch_add(1, Ordering::Relaxed);
        let [high, low] = host.to_be_bytes();
        let v6 = Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, host);
        (
            host,
            vec![Ipv4Addr::new(10, 7, high, low).into(), v6.into()],
        )
    }

    fn node_cgroups(&self, node: &str) -> Result<Arc<NodeCgroups>> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cgroups) = nodes.get(node) {
            return Ok(cgroups.clone());
        }
        let cgroups = Arc::new(NodeCgroups {
            agent: self.cgroup.child(&format!("{node}-agent"))?,
            pods: self.cgroup.child(&format!("{node}-pods"))?,
        });
        nodes.insert(node.to_owned(), cgroups.clone());
        Ok(cgroups)
    }
}

/// Writes `FILE.yaml` into a folder of configuration, at once or not at all.
fn write_object(config: &Path, file: &str, yaml: &str) -> Result<()> {
    let target = config.join(format!("{file}.yaml"));
    let hidden = config.join(format!(".{file}.new"));
    fs::write(&hidden, yaml)
        .and_then(|()| fs::rename(&hidden, &target))
        .with_context(|| format!("writing {}", target.display()))
}

impl Drop for World {
    fn drop(&mut self) {
        // Before the parent cgroup goes, and with it whatever still runs in them.
        self.nodes
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}
