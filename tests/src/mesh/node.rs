//! A node: the real agent binary with folders, pins and cgroups of its own.

#![expect(
    unsafe_code,
    reason = "the agent enters its cgroup between fork and exec"
)]

mod ask;

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::pod::{Pod, PodSpec};
use super::{NodeCgroups, World, write_object};
use crate::capabilities::Capabilities;
use crate::cgroup::Cgroup;
use crate::process::own_program;
use crate::report;
use crate::wait::{patience, until, wait_until};

/// A node; its agents are killed on drop, and their log is printed when the test failed.
#[derive(Debug)]
pub struct Node {
    name: String,
    folder: PathBuf,
    config: PathBuf,
    state: PathBuf,
    agents: Mutex<Vec<Agent>>,
    options: Mutex<Vec<String>>,
    log_filter: Mutex<Option<String>>,
    agent_pods: Mutex<Vec<AgentPod>>,
    capabilities: Mutex<Option<Capabilities>>,
    cgroups: Arc<NodeCgroups>,
    world: Arc<World>,
}

/// One agent process; normally there is one, during a takeover two.
#[derive(Debug)]
struct Agent {
    child: Child,
    admin: SocketAddr,
}

/// Where an agent runs that is a pod itself; dropped in this order.
#[derive(Debug)]
struct AgentPod {
    container: Cgroup,
    _pod: Cgroup,
    namespaced: bool,
}

impl Node {
    pub(super) fn create(world: Arc<World>, name: &str) -> Result<Self> {
        let folder = world.folder.path().join(name);
        fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(Self {
            name: name.to_owned(),
            config: world.config(),
            state: world.folder.path().join("state"),
            folder,
            agents: Mutex::default(),
            options: Mutex::default(),
            log_filter: Mutex::default(),
            agent_pods: Mutex::default(),
            capabilities: Mutex::default(),
            cgroups: world.node_cgroups(name)?,
            world,
        })
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes a pod of this node, in the meshed namespace, and writes it into the configuration.
    ///
    /// # Errors
    /// Fails when one of its parts cannot be made.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        self.pod_with(PodSpec::new(name))
    }

    /// Makes a pod of this node.
    ///
    /// # Errors
    /// Fails when one of its parts cannot be made.
    pub fn pod_with(&self, spec: PodSpec) -> Result<Pod> {
        Pod::create(self.world.clone(), spec, Some(&self.name))
    }

    /// Gives the node a copy of the configuration as it is now, which only
    /// [`Node::update_configuration`] updates: a node that is cut off from the source of truth. For agents that are started after this.
    ///
    /// # Errors
    /// Fails when the disk does.
    pub fn freeze_configuration(&mut self) -> Result<()> {
        self.config = self.folder.join("frozen");
        fs::create_dir(&self.config)?;
        self.update_configuration()
    }

    /// Brings the copy that [`Node::freeze_configuration`] made up to date.
    ///
    /// # Errors
    /// Fails when the disk does.
    pub fn update_configuration(&self) -> Result<()> {
        let wanted = self.world.config();
        ensure!(
            self.config != wanted,
            "{} has no copy of its own",
            self.name
        );
        for entry in fs::read_dir(&wanted)? {
            let name = entry?.file_name();
            let hidden = self.config.join(format!(".{}", name.display()));
            fs::copy(wanted.join(&name), &hidden)?;
            fs::rename(hidden, self.config.join(name))?;
        }
        for entry in fs::read_dir(&self.config)? {
            let name = entry?.file_name();
            if !wanted.join(&name).exists() {
                fs::remove_file(self.config.join(name))?;
            }
        }
        Ok(())
    }

    /// Makes the node another mesh's: an empty configuration, which [`Node::write`] fills,
    /// and a state folder of its own. For agents that are started after this.
    ///
    /// # Errors
    /// Fails when the disk does.
    pub fn secede(&mut self) -> Result<()> {
        self.config = self.folder.join("config");
        self.state = self.folder.join("state");
        fs::create_dir(&self.config)?;
        fs::create_dir(&self.state)?;
        Ok(())
    }

    /// Writes `FILE.yaml` into the configuration that this node reads, at once or not at all.
    ///
    /// # Errors
    /// Fails when the disk does.
    pub fn write(&self, file: &str, yaml: &str) -> Result<()> {
        write_object(&self.config, file, yaml)
    }

    /// The folder in which the node's embedded authority keeps its root.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Has agents that are started from now on log what this filter (`RUST_LOG`) lets through.
    pub fn set_log(&self, filter: &str) {
        let mut own = self
            .log_filter
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *own = Some(filter.to_owned());
    }

    /// Gives further options of `mesh-agent run` to agents that are started from now on.
    pub fn set_options(&self, options: &[&str]) {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        *self.options.lock().unwrap_or_else(PoisonError::into_inner) = options;
    }

    /// Gives agents that are started from now on these capabilities alone, instead of all.
    pub fn set_capabilities(&self, capabilities: Capabilities) {
        let own = self.capabilities.lock();
        *own.unwrap_or_else(PoisonError::into_inner) = Some(capabilities);
    }

    /// Starts agents from now on as a `DaemonSet` does: in the cgroup of a container, in one of
    /// a pod called `name`, below the pods cgroup; and, as most runtimes do, in a cgroup
    /// namespace of its own, which hides where that is.
    ///
    /// # Errors
    /// Fails when there is such a pod already.
    pub fn put_agents_in_pod(&self, name: &str, namespaced: bool) -> Result<()> {
        let pod = self.cgroups.pods.child(name)?;
        let container = pod.child("container")?;
        let mut pods = self
            .agent_pods
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        pods.push(AgentPod {
            container,
            _pod: pod,
            namespaced,
        });
        Ok(())
    }

    /// Starts the agent and waits until it says that it is ready.
    ///
    /// # Errors
    /// Carries its log when it ends or does not get ready within a minute.
    pub fn start(&self) -> Result<()> {
        self.launch()?;
        self.wait_ready()
    }

    /// Starts the agent without waiting for anything.
    ///
    /// # Errors
    /// Fails when the binary is missing.
    pub fn launch(&self) -> Result<()> {
        // Its own port each time: during a takeover two agents run.
        self.launch_at(free_port()?)
    }

    /// Starts another agent with the very options of the one that runs, and waits until it has
    /// taken its place: it answers, and is ready. The old one runs on.
    ///
    /// # Errors
    /// Fails when none runs.
    pub fn take_over(&self) -> Result<()> {
        let old = self.pid()?;
        let admin = self.lock().last().map(|agent| agent.admin);
        self.launch_at(admin.with_context(|| format!("no agent runs on {}", self.name))?)?;
        wait_until("the new agent answers and is ready", || {
            self.cli("status")
                .is_ok_and(|status| status["pid"] != old && status["ready"] == true)
        })
    }

    /// Starts another agent beside the one that runs, called `instance`, which is to take its
    /// configuration from a Kubernetes API that nobody serves.
    ///
    /// # Errors
    /// Fails when the disk does.
    pub fn launch_without_api(&self, instance: &str) -> Result<()> {
        let nowhere = free_port()?;
        let kubeconfig = self.folder.join("nowhere.kubeconfig");
        let text = format!(
            "{{apiVersion: v1, kind: Config, current-context: it, \
             contexts: [{{name: it, context: {{cluster: it}}}}], \
             clusters: [{{name: it, cluster: {{server: 'http://{nowhere}'}}}}]}}\n"
        );
        fs::write(&kubeconfig, text).context("writing a kubeconfig")?;
        let admin = free_port()?;
        let mut command = self.agent_command(admin, &["--kube".as_ref()])?;
        command.env("KUBECONFIG", kubeconfig);
        command.env("ISTHMUS_INSTANCE", instance);
        self.spawn(command, admin)
    }

    fn launch_at(&self, admin: SocketAddr) -> Result<()> {
        let source = ["--config".as_ref(), self.config.as_os_str()];
        self.spawn(self.agent_command(admin, &source)?, admin)
    }

    fn spawn(&self, mut command: Command, admin: SocketAddr) -> Result<()> {
        let child = command.spawn().context("starting mesh-agent")?;
        self.lock().push(Agent { child, admin });
        Ok(())
    }

    /// Waits until `/readyz` answers 200.
    ///
    /// # Errors
    /// Carries the log when the agent ends or does not get ready within a minute.
    pub fn wait_ready(&self) -> Result<()> {
        let mut last = String::new();
        until(
            &format!("the agent of {} is ready", self.name),
            patience(60),
            || {
                if let Some(agent) = self.lock().last_mut()
                    && let Some(status) = agent.child.try_wait()?
                {
                    return Ok(Some(Err(status)));
                }
                last = self
                    .http("/readyz")
                    .unwrap_or_else(|error| format!("{error:#}"));
                Ok(last.starts_with("HTTP/1.1 200").then_some(Ok(())))
            },
            String::new,
        )
        .with_context(|| format!("/readyz said: {last}\nlog:\n{}", self.log_tail()))?
        .map_err(|status: ExitStatus| {
            anyhow::anyhow!(
                "the agent of {} ended with {status}:\n{}",
                self.name,
                self.log_tail()
            )
        })
    }

    /// Kills the agent as `kill -9` does and waits until it is gone.
    ///
    /// # Errors
    /// Fails when none runs.
    pub fn kill9(&self) -> Result<()> {
        self.end(Signal::SIGKILL).map(drop)
    }

    /// Ends the agent by SIGTERM and waits until it is gone.
    ///
    /// # Errors
    /// Fails when none runs, or it does not end.
    pub fn terminate(&self) -> Result<ExitStatus> {
        self.end(Signal::SIGTERM)
    }

    /// `kill9`, then `start`.
    ///
    /// # Errors
    /// As those.
    pub fn restart(&self) -> Result<()> {
        self.kill9()?;
        self.start()
    }

    /// Sends SIGTERM to the agent that runs longest, without waiting.
    ///
    /// # Errors
    /// Fails when none runs.
    pub fn signal_oldest(&self, signal: Signal) -> Result<()> {
        let agents = self.lock();
        let agent = agents
            .first()
            .with_context(|| format!("no agent runs on {}", self.name))?;
        Ok(kill(
            Pid::from_raw(i32::try_from(agent.child.id())?),
            signal,
        )?)
    }

    /// Waits until the agent that runs longest has ended by itself.
    ///
    /// # Errors
    /// Fails when it does not within a minute.
    pub fn wait_oldest(&self) -> Result<ExitStatus> {
        let mut agent = {
            let mut agents = self.lock();
            ensure!(!agents.is_empty(), "no agent runs on {}", self.name);
            agents.remove(0)
        };
        until(
            "the agent ends",
            patience(60),
            || Ok(agent.child.try_wait()?),
            String::new,
        )
    }

    /// The process id of the agent that was started last.
    ///
    /// # Errors
    /// Fails when none runs.
    pub fn pid(&self) -> Result<u32> {
        Ok(self
            .lock()
            .last()
            .with_context(|| format!("no agent runs on {}", self.name))?
            .child
            .id())
    }

    fn agent_command(&self, admin: SocketAddr, source: &[&OsStr]) -> Result<Command> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        let mut command = Command::new(agent_binary()?);
        command
            .arg("run")
            .args(source)
            .args(["--node", &self.name])
            .arg("--pods-cgroup")
            .arg(self.cgroups.pods.path())
            .arg("--pin-dir")
            .arg(self.pin_dir())
            .arg("--run-dir")
            .arg(self.run_dir())
            .args(["--admin", &admin.to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let options = self.options.lock().unwrap_or_else(PoisonError::into_inner);
        command.args(&*options);
        if !options.iter().any(|option| option == "--state-dir") {
            command.arg("--state-dir").arg(&self.state);
        }
        let filter = self.log_filter.lock();
        if let Some(filter) = &*filter.unwrap_or_else(PoisonError::into_inner) {
            command.env("RUST_LOG", filter);
        }
        let pods = self.agent_pods.lock();
        let (cgroup, namespaced) = match pods.unwrap_or_else(PoisonError::into_inner).last() {
            Some(pod) => (pod.container.procs()?, pod.namespaced),
            None => (self.cgroups.agent.procs()?, false),
        };
        let capabilities = self.capabilities.lock();
        let capabilities = *capabilities.unwrap_or_else(PoisonError::into_inner);
        let enter = move || {
            nix::unistd::write(cgroup.as_fd(), b"0")?;
            if namespaced {
                unshare(CloneFlags::CLONE_NEWCGROUP)?;
            }
            capabilities.map_or(Ok(()), Capabilities::confine)
        };
        // SAFETY: the closure runs between fork and exec. It calls write(2) on a descriptor
        // opened beforehand, unshare(2), prctl(2) and capset(2): async-signal-safe, no
        // allocation, no lock.
        unsafe { command.pre_exec(enter) };
        Ok(command)
    }

    fn end(&self, signal: Signal) -> Result<ExitStatus> {
        let Some(mut agent) = self.lock().pop() else {
            bail!("no agent runs on {}", self.name)
        };
        if let Some(status) = agent.child.try_wait()? {
            bail!(
                "the agent of {} had already ended with {status}:\n{}",
                self.name,
                self.log_tail()
            );
        }
        kill(Pid::from_raw(i32::try_from(agent.child.id())?), signal)?;
        until(
            &format!("the agent of {} ends after {signal}", self.name),
            patience(60),
            || Ok(agent.child.try_wait()?),
            || self.log_tail(),
        )
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Agent>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.lock().clear();
        report::note(
            &format!("the agent of {} logged", self.name),
            &self.log_text(),
        );
        remove_pins(&self.pin_dir());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The agent's binary: built into the folder of the test binary.
fn agent_binary() -> Result<PathBuf> {
    own_program("mesh-agent")
}

/// A port on a loopback address of its own. Of `127.0.0.1` alone, the kernel may hand out a
/// port that is free at this moment twice, and one test then asks another's agent.
pub(super) fn free_port() -> Result<SocketAddr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // 127.0.0.0/16 is left to others; neighbouring processes are 64 addresses apart.
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let host = (std::process::id().wrapping_mul(64).wrapping_add(next)) % 0xfe_0000 + 0x1_0000;
    let address = Ipv4Addr::from_bits(0x7f00_0000 | host);
    Ok(TcpListener::bind((address, 0))?.local_addr()?)
}

/// Removes pins, so that programs detach before the cgroups that they are attached to go.
fn remove_pins(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!(
            "pins in {} stay until the bpffs goes: {error}",
            folder.display()
        );
    }
}
