//! The programs of a cluster: started in their places, stopped, found again by any run. A
//! service is a v2 cgroup of its own, so that nothing depends on process ids.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::place::{Node, Place};
use super::{cgroups, control, node};
use crate::command::Run;

/// Where a service runs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Machine {
    Control,
    Node(Node),
}

/// A program with its arguments, and its place.
#[derive(Debug)]
pub(super) struct Service {
    /// As `cargo xtask cluster stop` takes it: `api-server`, `n1/kubelet`.
    pub(super) name: String,
    pub(super) machine: Machine,
    pub(super) command: Vec<String>,
}

/// All services of a cluster, in the order of their start.
pub(super) fn all(place: &Place) -> Result<Vec<Service>> {
    let mut services = control::services(place)?;
    for node in super::place::NODES {
        services.extend(node::services(node));
    }
    Ok(services)
}

/// The service of that name.
pub(super) fn named(place: &Place, name: &str) -> Result<Service> {
    let services = all(place)?;
    let names: Vec<_> = services.iter().map(|s| s.name.clone()).collect();
    let found = services.into_iter().find(|service| service.name == name);
    found.with_context(|| {
        format!(
            "no service is called `{name}`: there are {}",
            names.join(", ")
        )
    })
}

impl Service {
    /// Starts it; what it prints goes to its log. It outlives this process.
    pub(super) fn start(&self, place: &Place) -> Result<()> {
        if self.is_running(place)? {
            return Ok(());
        }
        let cgroup = self.cgroup(place);
        cgroups::create_unified(&cgroup)?;
        let file = self.log(place)?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(&file)
            .with_context(|| format!("writing {}", file.display()))?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["cluster", "launch", "--name", place.name(), "--cgroup"])
            .arg(&cgroup);
        if let Machine::Node(node) = self.machine {
            command.args(["--node", &node.name()]);
        }
        command
            .arg("--")
            .args(&self.command)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A Ctrl-C on the terminal is not meant for it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {}", self.name))?;
        Ok(())
    }

    /// Ends it, politely first. The API server would wait long for those who watch.
    pub(super) fn stop(&self, place: &Place) -> Result<()> {
        let cgroup = self.cgroup(place);
        for process in cgroups::processes(&cgroup)? {
            // It fails only for one that has ended meanwhile.
            let _ = kill(Pid::from_raw(process), Signal::SIGTERM);
        }
        if !cgroups::wait_empty(&cgroup, Duration::from_secs(1))? {
            cgroups::kill(&cgroup)?;
        }
        Ok(())
    }

    pub(super) fn is_running(&self, place: &Place) -> Result<bool> {
        Ok(!cgroups::processes(&self.cgroup(place))?.is_empty())
    }

    /// Where its output goes.
    pub(super) fn log(&self, place: &Place) -> Result<PathBuf> {
        let folder = place.file("logs")?;
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(folder.join(format!("{}.log", self.name.replace('/', "-"))))
    }

    fn cgroup(&self, place: &Place) -> PathBuf {
        let program = self.name.rsplit('/').next().unwrap_or(&self.name);
        match self.machine {
            Machine::Control => place.cgroup().join("cp").join(program),
            // As systemd would have it on a real machine.
            Machine::Node(node) => place
                .cgroup()
                .join(node.name())
                .join("system.slice")
                .join(format!("{program}.service")),
        }
    }
}

/// What `cluster launch` does: goes to the service's place, and becomes the program.
pub(super) fn launch(
    place: &Place,
    cgroup: &Path,
    node: Option<&str>,
    command: &[String],
) -> Result<()> {
    let (program, arguments) = command.split_first().context("no program to launch")?;
    cgroups::join(cgroup)?;
    let entered = match node {
        Some(node) => enter(place, Node::named(node)?)?.arg(program),
        None => {
            ensure!(
                Path::new(program).is_file(),
                "{program} is not there: `cargo xtask cluster up` builds it"
            );
            control_plane(place).arg(program)
        }
    };
    arguments.iter().fold(entered, Run::arg).replace()
}

/// Runs what is appended on a node: in all of its namespaces.
pub(super) fn enter(place: &Place, node: Node) -> Result<Run> {
    let process = place.first_process(node)?;
    if !Path::new("/proc").join(process.to_string()).exists() {
        bail!(
            "the node {} is not up: `cargo xtask cluster reboot {0}` starts it",
            node.name()
        );
    }
    Ok(Run::new("nsenter")
        .arg("--target")
        .arg(process.to_string())
        .words("--mount --net --uts --ipc --cgroup --pid --"))
}

/// Runs what is appended in the control plane's network namespace.
pub(super) fn control_plane(place: &Place) -> Run {
    let file = Path::new("/run/netns").join(place.control_netns());
    Run::new("nsenter")
        .arg(format!("--net={}", file.display()))
        .arg("--")
}
