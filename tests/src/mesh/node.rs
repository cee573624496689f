//! A node: the real agent binary with folders, pins and cgroups of its own.

#![expect(
    unsafe_code,
    reason = "the agent enters its cgroup between fork and exec"
)]

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::pod::{Pod, PodSpec};
use super::{NodeCgroups, World};
use crate::process::{Finished, own_program, run};
use crate::report;
use crate::wait::{patience, until};

/// A node; its agents are killed on drop, and their log is printed when the test failed.
#[derive(Debug)]
pub struct Node {
    name: String,
    folder: PathBuf,
    config: PathBuf,
    agents: Mutex<Vec<Agent>>,
    cgroups: Arc<NodeCgroups>,
    world: Arc<World>,
}

/// One agent process; normally there is one, during a takeover two.
#[derive(Debug)]
struct Agent {
    child: Child,
    admin: SocketAddr,
}

impl Node {
    pub(super) fn create(world: Arc<World>, name: &str) -> Result<Self> {
        let folder = world.folder.path.join(name);
        fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(Self {
            name: name.to_owned(),
            config: world.config(),
            folder,
            agents: Mutex::default(),
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
        let admin = free_port()?;
        let child = self
            .agent_command(admin)?
            .spawn()
            .context("starting mesh-agent")?;
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

    /// Runs a command of the agent's CLI against this node, with `-o json`, and gives its answer.
    ///
    /// # Errors
    /// Carries what the command said when it failed.
    pub fn cli(&self, command: &str) -> Result<Value> {
        let text = self.cli_run(&format!("{command} -o json"))?.success()?;
        serde_json::from_str(&text)
            .with_context(|| format!("`mesh-agent {command} -o json` said: {text}"))
    }

    /// Runs a command of the agent's CLI against this node.
    ///
    /// # Errors
    /// Fails when it cannot be started or hangs.
    pub fn cli_run(&self, words: &str) -> Result<Finished> {
        let mut command = Command::new(agent_binary()?);
        command
            .args(words.split_whitespace())
            .arg("--run-dir")
            .arg(self.run_dir());
        run(command)
    }

    /// What the agent says about one workload.
    ///
    /// # Errors
    /// Fails when the CLI does.
    pub fn workload(&self, uid: &str) -> Result<Option<Value>> {
        let (namespace, name) = uid.split_once('/').context("a uid is namespace/name")?;
        let all = self.cli("workloads")?;
        let all = all
            .as_array()
            .context("`workloads -o json` prints a list")?;
        Ok(all
            .iter()
            .find(|w| w["name"] == name && w["namespace"] == namespace)
            .cloned())
    }

    /// Waits until this agent carries the pod's traffic.
    ///
    /// # Errors
    /// Says what the agent said of the pod last.
    pub fn wait_enrolled(&self, pod: &Pod) -> Result<()> {
        self.wait_state(&pod.uid(), "enrolled")
    }

    /// Waits until a workload is in this state.
    ///
    /// # Errors
    /// Says in what state it was seen last.
    pub fn wait_state(&self, uid: &str, state: &str) -> Result<()> {
        let mut last = None;
        until(
            &format!("{uid} is {state} on {}", self.name),
            patience(30),
            || {
                last = self.workload(uid)?;
                Ok(last
                    .as_ref()
                    .is_some_and(|w| w["state"] == state)
                    .then_some(()))
            },
            String::new,
        )
        .with_context(|| format!("last seen: {last:?}"))
    }

    /// Makes a change to the configuration and waits until the agent has put one in force that
    /// is newer than before.
    ///
    /// # Errors
    /// Fails when the change does, or when the agent does not follow.
    pub fn after<T>(&self, change: impl FnOnce() -> Result<T>) -> Result<T> {
        let generation = || -> Result<u64> {
            let status = self.cli("status")?;
            status["config"]["generation"]
                .as_u64()
                .with_context(|| format!("no generation in {status}"))
        };
        let before = generation()?;
        let done = change()?;
        until(
            &format!("{} follows the change", self.name),
            patience(30),
            || Ok((generation()? > before).then_some(())),
            || self.log_tail(),
        )?;
        Ok(done)
    }

    /// One answer of the admin server of the agent that was started last, head and body.
    ///
    /// # Errors
    /// Fails when it does not answer.
    pub fn http(&self, path: &str) -> Result<String> {
        let admin = self.lock().last().context("no agent runs")?.admin;
        let mut stream = TcpStream::connect_timeout(&admin, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(patience(5)))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// The sum of a metric over the label sets that contain all of `labels` (`name="value"`).
    ///
    /// # Errors
    /// Fails when the admin server does not answer.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let text = self.http("/metrics")?;
        let sum = text
            .lines()
            .filter(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(['{', ' ']))
            })
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum();
        Ok(sum)
    }

    /// All lines that the node's agents logged, those that are JSON objects.
    ///
    /// # Errors
    /// Fails when the file cannot be read.
    pub fn log(&self) -> Result<Vec<Value>> {
        let text = String::from_utf8_lossy(&fs::read(self.log_file())?).into_owned();
        Ok(text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect())
    }

    /// The lines of the access log.
    ///
    /// # Errors
    /// Fails when the file cannot be read.
    pub fn access_log(&self) -> Result<Vec<Value>> {
        Ok(self
            .log()?
            .into_iter()
            .filter(|line| line["target"] == "access")
            .collect())
    }

    /// Waits for a line of the access log that satisfies `wanted`.
    ///
    /// # Errors
    /// Carries the lines that came instead.
    pub fn wait_access(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        until(
            &format!("the access log of {} has a line with {what}", self.name),
            patience(30),
            || Ok(self.access_log()?.into_iter().find(&wanted)),
            || format!("{:#?}", self.access_log()),
        )
    }

    /// The folder of sockets.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// Where the agent pins its programs and maps.
    #[must_use]
    pub fn pin_dir(&self) -> PathBuf {
        self.world.folder.path.join("bpf").join(&self.name)
    }

    /// The cgroup below which the node's pods are.
    #[must_use]
    pub fn pods_cgroup(&self) -> &Path {
        self.cgroups.pods.path()
    }

    /// The file that the agent logs to.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.folder.join("agent.log")
    }

    /// The last lines of the log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    fn log_text(&self) -> String {
        fs::read(self.log_file())
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }

    fn agent_command(&self, admin: SocketAddr) -> Result<Command> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        let mut command = Command::new(agent_binary()?);
        command
            .arg("run")
            .arg("--config")
            .arg(&self.config)
            .args(["--node", &self.name])
            .arg("--pods-cgroup")
            .arg(self.cgroups.pods.path())
            .arg("--pin-dir")
            .arg(self.pin_dir())
            .arg("--run-dir")
            .arg(self.run_dir())
            .arg("--state-dir")
            .arg(self.world.folder.path.join("state"))
            .args(["--admin", &admin.to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let procs = self.cgroups.agent.procs()?;
        // SAFETY: the closure runs between fork and exec. It calls write(2) on a descriptor
        // opened beforehand: async-signal-safe, no allocation, no lock.
        unsafe { command.pre_exec(move || Ok(nix::unistd::write(procs.as_fd(), b"0").map(drop)?)) };
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
fn free_port() -> Result<SocketAddr> {
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
