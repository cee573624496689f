//! A pod: a network namespace on the bridge and a cgroup, and commands that run inside.

#![expect(
    unsafe_code,
    reason = "a child enters its namespace and cgroup between fork and exec"
)]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use super::{GATEWAY_V4, GATEWAY_V6, World, objects};
use crate::cgroup::Cgroup;
use crate::netns::Netns;
use crate::process::{Finished, Process, own_program, run};

/// What a pod is to be.
#[derive(Debug, Clone)]
pub struct PodSpec {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) service_account: String,
    pub(super) labels: Vec<(String, String)>,
    pub(super) annotations: Vec<(String, String)>,
    addresses: Option<Vec<IpAddr>>,
    families: Families,
    configured: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Families {
    Both,
    OnlyV4,
}

impl PodSpec {
    /// A pod in the meshed namespace `default` with a service account of its own name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            service_account: name.to_owned(),
            labels: vec![("app".to_owned(), name.to_owned())],
            annotations: Vec::new(),
            addresses: None,
            families: Families::Both,
            configured: true,
        }
    }

    /// In another namespace (whose object the test writes itself).
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// With another service account.
    #[must_use]
    pub fn service_account(mut self, account: &str) -> Self {
        account.clone_into(&mut self.service_account);
        self
    }

    /// With one more label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// With one more annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.push((key.to_owned(), value.to_owned()));
        self
    }

    /// With these addresses instead of fresh ones.
    #[must_use]
    pub fn addresses(mut self, addresses: &[IpAddr]) -> Self {
        self.addresses = Some(addresses.to_vec());
        self
    }

    /// Without IPv6.
    #[must_use]
    pub fn only_v4(mut self) -> Self {
        self.families = Families::OnlyV4;
        self
    }

    /// Not written to the folder of configuration, until [`Pod::configure`].
    #[must_use]
    pub fn outside(mut self) -> Self {
        self.configured = false;
        self
    }
}

/// A pod, or a client outside the mesh; removed on drop.
#[derive(Debug)]
pub struct Pod {
    spec: PodSpec,
    node: Option<String>,
    addresses: Vec<IpAddr>,
    configured: bool,
    netns: Netns,
    cgroup: Cgroup,
    world: Arc<World>,
}

impl Pod {
    pub(super) fn create(world: Arc<World>, spec: PodSpec, node: Option<&str>) -> Result<Self> {
        let (host, mut addresses) = world.next_addresses();
        if spec.families == Families::OnlyV4 {
            addresses.truncate(1);
        }
        if let Some(given) = &spec.addresses {
            addresses.clone_from(given);
        }
        // The number keeps apart two pods of one name, such as one and its successor.
        let unique = format!("{}-{host}", spec.name);
        // What runs outside the mesh has a cgroup too, so that it is found and ended by name.
        let cgroup = match node {
            Some(node) => world.node_cgroups(node)?.pods.child(&unique)?,
            None => world.cgroup.child(&format!("outside-{unique}"))?,
        };
        let netns = Netns::create(&format!("{}-{unique}", world.name))?;
        wire(&world, &netns, host, &addresses)?;
        let mut pod = Self {
            node: node.map(str::to_owned),
            addresses,
            configured: false,
            netns,
            cgroup,
            spec,
            world,
        };
        if pod.spec.configured {
            pod.configure()?;
        }
        Ok(pod)
    }

    /// Writes the pod into the folder of configuration.
    ///
    /// # Errors
    /// Fails for a client outside the mesh.
    pub fn configure(&mut self) -> Result<()> {
        let yaml = self.yaml()?;
        self.world.write(&self.file(), &yaml)?;
        self.configured = true;
        Ok(())
    }

    /// Describes the pod otherwise from now on: writes it anew, with its name as it was.
    ///
    /// # Errors
    /// As [`Pod::configure`].
    pub fn reconfigure(&mut self, change: impl FnOnce(PodSpec) -> PodSpec) -> Result<()> {
        self.spec = change(self.spec.clone());
        self.configure()
    }

    /// Writes the pod into the folder of configuration as it was made, over what a test wrote.
    ///
    /// # Errors
    /// Fails for a client outside the mesh.
    pub fn configure_again(&self) -> Result<()> {
        self.world.write(&self.file(), &self.yaml()?)
    }

    /// Takes the pod out of the mesh by its label, and leaves it running. [`Pod::configure`]
    /// brings it back.
    ///
    /// # Errors
    /// As [`Pod::configure`].
    pub fn leave(&mut self) -> Result<()> {
        let yaml = self.yaml_with(|spec| spec.label("isthmus.dev/mesh", "disabled"))?;
        self.world.write(&self.file(), &yaml)?;
        self.configured = true;
        Ok(())
    }

    /// Takes the pod out of the folder of configuration, and leaves it running.
    ///
    /// # Errors
    /// Fails when it is not there.
    pub fn forget(&mut self) -> Result<()> {
        self.configured = false;
        self.world.remove(&self.file())
    }

    /// The pod as an object.
    ///
    /// # Errors
    /// Fails for a client outside the mesh.
    pub fn yaml(&self) -> Result<String> {
        self.yaml_with(|spec| spec)
    }

    /// The pod as an object that says otherwise of it, as another mesh's configuration does.
    ///
    /// # Errors
    /// Fails for a client outside the mesh.
    pub fn yaml_with(&self, change: impl FnOnce(PodSpec) -> PodSpec) -> Result<String> {
        let Some(node) = &self.node else {
            bail!("{} is outside the mesh", self.spec.name)
        };
        Ok(objects::pod(
            &change(self.spec.clone()),
            node,
            &self.addresses,
            &self.netns.path().display().to_string(),
            &self.cgroup.path().display().to_string(),
        ))
    }

    /// `namespace/name`.
    #[must_use]
    pub fn uid(&self) -> String {
        format!("{}/{}", self.spec.namespace, self.spec.name)
    }

    /// The SPIFFE identity that the pod must get.
    #[must_use]
    pub fn identity(&self) -> String {
        format!(
            "spiffe://cluster.local/ns/{}/sa/{}",
            self.spec.namespace, self.spec.service_account
        )
    }

    /// All addresses, IPv4 first.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// The IPv4 address with a port.
    ///
    /// # Panics
    /// Panics when the test made the pod without one.
    #[must_use]
    pub fn v4(&self, port: u16) -> SocketAddr {
        SocketAddr::new(
            *self
                .addresses
                .iter()
                .find(|a| a.is_ipv4())
                .expect("a pod with IPv4"),
            port,
        )
    }

    /// The IPv6 address with a port.
    ///
    /// # Panics
    /// Panics when the test made the pod without one.
    #[must_use]
    pub fn v6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(
            *self
                .addresses
                .iter()
                .find(|a| a.is_ipv6())
                .expect("a pod with IPv6"),
            port,
        )
    }

    /// The network namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The cgroup that the mesh knows; none for a client outside the mesh.
    #[must_use]
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.node.as_ref().map(|_| &self.cgroup)
    }

    /// The cgroup that its processes are in, known to the mesh or not.
    #[must_use]
    pub fn own_cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    /// A command that runs inside the pod.
    ///
    /// # Errors
    /// Fails when the pod's namespace or cgroup is gone.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        self.command_in(program, &self.netns)
    }

    /// A command of this pod's cgroup that runs in the namespace of another.
    fn command_in(&self, program: impl AsRef<std::ffi::OsStr>, netns: &Netns) -> Result<Command> {
        let mut command = Command::new(program);
        let netns = netns.open()?;
        let procs = self.cgroup.procs()?;
        // SAFETY: the closure runs between fork and exec. It calls write(2) and setns(2) on
        // descriptors opened beforehand: async-signal-safe, no allocation, no lock.
        unsafe { command.pre_exec(move || enter(&procs, &netns)) };
        Ok(command)
    }

    /// Runs a program with arguments inside the pod to its end.
    ///
    /// # Errors
    /// Fails when it cannot be started or hangs.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Finished> {
        let mut command = self.command(program)?;
        command.args(arguments);
        run(command).with_context(|| format!("in {}", self.spec.name))
    }

    /// Starts a program with arguments inside the pod.
    ///
    /// # Errors
    /// Fails when it cannot be started.
    pub fn spawn(&self, program: &str, arguments: &[&str]) -> Result<Process> {
        let mut command = self.command(program)?;
        command.args(arguments);
        Process::spawn(command).with_context(|| format!("in {}", self.spec.name))
    }

    /// Runs the project's `traffic` tool inside the pod to its end; `words` are its arguments.
    ///
    /// # Errors
    /// Fails when it cannot be started or hangs.
    pub fn traffic(&self, words: &str) -> Result<Finished> {
        self.traffic_in(words, &self.netns)
    }

    fn traffic_in(&self, words: &str, netns: &Netns) -> Result<Finished> {
        let mut command = self.command_in(own_program("traffic")?, netns)?;
        command.args(words.split_whitespace());
        run(command).with_context(|| format!("`traffic {words}` in {}", self.spec.name))
    }

    /// Runs a client of the `traffic` tool and gives the one JSON object that it prints.
    ///
    /// # Errors
    /// Fails when it prints something else.
    pub fn client(&self, words: &str) -> Result<serde_json::Value> {
        self.answer(words, self.traffic(words)?)
    }

    /// [`Pod::client`] by a process of this pod's cgroup that entered the namespace of another.
    ///
    /// # Errors
    /// Fails when it prints something else.
    pub fn client_intruding(&self, into: &Self, words: &str) -> Result<serde_json::Value> {
        self.answer(words, self.traffic_in(words, &into.netns)?)
    }

    /// [`Pod::client`] by a process of this pod's cgroup in another network namespace.
    ///
    /// # Errors
    /// Fails when it prints something else.
    pub fn client_in(&self, netns: &Netns, words: &str) -> Result<serde_json::Value> {
        self.answer(words, self.traffic_in(words, netns)?)
    }

    /// [`Pod::start`] of a process of this pod's cgroup in another network namespace.
    ///
    /// # Errors
    /// Fails when it cannot be started.
    pub fn start_in(&self, netns: &Netns, words: &str) -> Result<Process> {
        let mut command = self.command_in(own_program("traffic")?, netns)?;
        command.args(words.split_whitespace());
        Process::spawn(command).with_context(|| format!("`traffic {words}` in {}", self.spec.name))
    }

    fn answer(&self, words: &str, finished: Finished) -> Result<serde_json::Value> {
        serde_json::from_str(&finished.stdout).with_context(|| {
            format!(
                "`traffic {words}` in {} ({}) said: {}{}",
                self.spec.name, finished.status, finished.stdout, finished.stderr
            )
        })
    }

    /// Starts a server of the `traffic` tool inside the pod and waits until it listens.
    ///
    /// # Errors
    /// Fails when it does not come to listen.
    pub fn serve(&self, words: &str) -> Result<Process> {
        let server = self.start(words)?;
        server.wait_line(|line| line == "ready")?;
        Ok(server)
    }

    /// Starts the `traffic` tool inside the pod, without waiting for anything.
    ///
    /// # Errors
    /// Fails when it cannot be started.
    pub fn start(&self, words: &str) -> Result<Process> {
        let mut command = self.command(own_program("traffic")?)?;
        command.args(words.split_whitespace());
        Process::spawn(command).with_context(|| format!("`traffic {words}` in {}", self.spec.name))
    }

    fn file(&self) -> String {
        format!("pod-{}-{}", self.spec.namespace, self.spec.name)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if self.configured {
            // A test may have removed the file itself.
            let _ = self.world.remove(&self.file());
        }
    }
}

/// Joins the pod; the cgroup first, so that no socket exists outside of it.
fn enter(procs: &OwnedFd, netns: &OwnedFd) -> io::Result<()> {
    nix::unistd::write(procs.as_fd(), b"0")?;
    setns(netns, CloneFlags::CLONE_NEWNET)?;
    Ok(())
}

/// Joins the namespace to the bridge by a veth, as a CNI plugin does.
fn wire(world: &World, netns: &Netns, host: u16, addresses: &[IpAddr]) -> Result<()> {
    let bridge = &world.bridge;
    bridge.ip(&format!(
        "link add v{host} type veth peer name eth0 netns {}",
        netns.name()
    ))?;
    bridge.ip(&format!("link set v{host} master br0 up"))?;
    if addresses.iter().all(IpAddr::is_ipv4) {
        netns.sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
    }
    for address in addresses {
        match address {
            IpAddr::V4(v4) => netns.ip(&format!("addr add {v4}/16 dev eth0"))?,
            IpAddr::V6(v6) => netns.ip(&format!("addr add {v6}/64 dev eth0 nodad"))?,
        }
    }
    if let Some(IpAddr::V4(v4)) = addresses.iter().find(|a| a.is_ipv4()) {
        // As the bridge CNI plugin does: an address that is used again is reached at once,
        // although its neighbours remember where it was.
        let [a, b, c, d] = v4.octets();
        netns.ip(&format!(
            "link set eth0 address 0a:58:{a:02x}:{b:02x}:{c:02x}:{d:02x}"
        ))?;
    }
    netns.ip("link set eth0 up")?;
    if addresses.iter().any(IpAddr::is_ipv4) {
        netns.ip(&format!("route add default via {GATEWAY_V4}"))?;
    }
    if addresses.iter().any(IpAddr::is_ipv6) {
        netns.ip(&format!("-6 route add default via {GATEWAY_V6}"))?;
    }
    Ok(())
}
