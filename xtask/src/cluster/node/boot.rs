//! How a node comes to be: `cluster boot` makes the namespaces, and leaves in them the first
//! process of the node, which mounts what a machine has mounted and buries the dead.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::super::cgroups::{self, Hierarchy};
use super::super::kubernetes;
use super::super::place::{Node, Place};
use super::KUBERNETES;

/// What the first process prints when the node stands.
const READY: &str = "ready";

/// Makes the node and comes back when it stands; its first process stays.
pub(in crate::cluster) fn boot(place: &Place, node: Node) -> Result<()> {
    cgroups::join(&place.cgroup().join(node.name()))?;
    let netns = Path::new("/run/netns").join(place.netns(node));
    let netns = File::open(&netns).with_context(|| format!("opening {}", netns.display()))?;
    setns(netns, CloneFlags::CLONE_NEWNET).context("entering the node's network namespace")?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWCGROUP
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC,
    )
    .context("making the node's namespaces")?;
    let log = place.file(format!("logs/{}.log", node.name()))?;
    let mut first = Command::new(std::env::current_exe()?)
        .args(["cluster", "first-process", "--name", place.name(), "--node"])
        .arg(node.name())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(&log).with_context(|| format!("writing {}", log.display()))?)
        .process_group(0)
        .spawn()
        .context("starting the node's first process")?;
    let mut line = String::new();
    BufReader::new(first.stdout.take().context("the pipe that was asked for")?)
        .read_line(&mut line)?;
    if line.trim() != READY {
        first.wait()?;
        let why = fs::read_to_string(&log).unwrap_or_default();
        ensure!(false, "the node did not come up: {}", why.trim());
    }
    let file = place.file(format!("{}.pid", node.name()))?;
    fs::write(&file, first.id().to_string()).with_context(|| format!("writing {}", file.display()))
}

/// The life of the node's first process: process 1 of its namespace. It ends when killed.
pub(in crate::cluster) fn first_process(place: &Place, node: Node) -> Result<()> {
    file_systems(place, node)?;
    fs::write("/proc/sys/kernel/hostname", node.name()).context("naming the node")?;
    let mut awaited = SigSet::empty();
    awaited.add(Signal::SIGCHLD);
    awaited.thread_block()?;
    println!("{READY}");
    std::io::stdout().flush()?;
    loop {
        awaited.wait()?;
        // Whoever loses its parent becomes a child of this process.
        while matches!(
            waitpid(None, Some(WaitPidFlag::WNOHANG)),
            Ok(status) if status != WaitStatus::StillAlive
        ) {}
    }
}

/// What a machine has mounted, and folders of the node's own wherever its programs write.
fn file_systems(place: &Place, node: Node) -> Result<()> {
    let hierarchies = cgroups::hierarchies()?;
    let disk = place.disk(node)?;
    let programs = kubernetes::folder()?;
    propagate("/", MsFlags::MS_PRIVATE)?;
    leave_foreign()?;
    attach("proc", "proc", Path::new("/proc"), "")?;
    attach("sysfs", "sysfs", Path::new("/sys"), "")?;
    cgroup_file_systems(&hierarchies)?;
    attach("bpf", "bpf", Path::new("/sys/fs/bpf"), "")?;
    // Settings of the machine below, with the node's own on top.
    let layers = format!(
        "lowerdir=/etc,upperdir={0}/etc,workdir={0}/etc-work",
        disk.display()
    );
    attach("overlay", "overlay", Path::new("/etc"), &layers)?;
    let opt_kubernetes = disk.join("opt").join(
        Path::new(KUBERNETES)
            .file_name()
            .context("a folder of /opt")?,
    );
    bind(&programs, &opt_kubernetes)?;
    for (folder, target) in [
        ("opt", "/opt"),
        ("var-log", "/var/log"),
        ("var-lib", "/var/lib"),
    ] {
        bind(&disk.join(folder), Path::new(target))?;
    }
    attach("tmpfs", "tmpfs", Path::new("/run"), "mode=755")?;
    fs::create_dir_all("/run/netns").context("making /run/netns")?;
    attach("tmpfs", "tmpfs", Path::new("/run/netns"), "mode=755")?;
    // Kubelet's mount propagation needs it: what is mounted in a pod appears on the node, and back.
    propagate("/", MsFlags::MS_SHARED)
}

/// Lets go of namespaces and kernel programs that other work on this machine has mounted: a
/// node that kept its copy of the mount would keep them alive.
fn leave_foreign() -> Result<()> {
    let mounts =
        fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    for line in mounts.lines() {
        let foreign = [" - nsfs ", " - bpf "]
            .iter()
            .any(|kind| line.contains(kind));
        if let (true, Some(target)) = (foreign, line.split(' ').nth(4)) {
            umount2(target, MntFlags::MNT_DETACH)
                .with_context(|| format!("unmounting {target} on the node"))?;
        }
    }
    Ok(())
}

/// The node's own view of its cgroups: its directory is the root.
fn cgroup_file_systems(hierarchies: &[Hierarchy]) -> Result<()> {
    let base = Path::new("/sys/fs/cgroup");
    if !hierarchies.iter().any(|h| h.mount == base) {
        attach("tmpfs", "tmpfs", base, "mode=755")?;
    }
    for hierarchy in hierarchies {
        let target = &hierarchy.mount;
        fs::create_dir_all(target).with_context(|| format!("making {}", target.display()))?;
        if hierarchy.unified {
            attach("cgroup2", "cgroup2", target, "")?;
            let scope = target.join("init.scope");
            fs::create_dir_all(&scope)?;
            fs::write(scope.join("cgroup.procs"), "0").context("leaving the root cgroup")?;
        } else {
            attach("cgroup", "cgroup", target, &hierarchy.options)?;
        }
    }
    Ok(())
}

fn attach(source: &str, kind: &str, target: &Path, options: &str) -> Result<()> {
    let options = (!options.is_empty()).then_some(options);
    mount(Some(source), target, Some(kind), MsFlags::empty(), options)
        .with_context(|| format!("mounting {kind} on {}", target.display()))
}

fn bind(source: &PathBuf, target: &Path) -> Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(source), target, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("binding {} to {}", source.display(), target.display()))
}

fn propagate(target: &str, how: MsFlags) -> Result<()> {
    let none = None::<&str>;
    mount(none, target, none, how | MsFlags::MS_REC, none)
        .with_context(|| format!("setting the propagation of {target}"))
}
