//! `cargo xtask cluster`: a real Kubernetes cluster of two nodes on this machine, for people to
//! try things on and for the tests of `tests/tests/cluster`. It needs root; programs are brought
//! from Debian's packages and the Go modules of Kubernetes.
//!
//! Each node is a set of namespaces (network, mounts, cgroups, processes, name) with a disk
//! folder of its own; a third network namespace holds the control plane and the bridge. All
//! processes are found by the cluster's cgroup, so a cluster of a killed run can be taken down.

mod cgroups;
mod control;
mod images;
mod kubernetes;
mod network;
mod node;
mod place;
mod service;
mod supervise;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};

use self::place::{NODES, Node, Place};
use crate::apt;

/// Which cluster.
#[derive(Args)]
pub(crate) struct Which {
    /// The cluster's name; several can be up beside each other
    #[arg(long, default_value = "dev")]
    name: String,
}

#[derive(Args)]
pub(crate) struct WhichNode {
    #[command(flatten)]
    which: Which,
    #[arg(long)]
    node: String,
}

#[derive(Subcommand)]
pub(crate) enum Task {
    /// Bring a cluster up, and print how to use it
    Up(Which),
    /// Take it down; nothing of it stays
    Down(Which),
    /// Stop a service, such as `api-server` or `n1/kubelet`
    Stop {
        #[command(flatten)]
        which: Which,
        service: String,
    },
    /// Start a service that was stopped
    Start {
        #[command(flatten)]
        which: Which,
        service: String,
    },
    /// Switch a node off and on: `n1` or `n2`
    Reboot {
        #[command(flatten)]
        which: Which,
        node: String,
    },
    /// Load archives of images on both nodes
    Load {
        #[command(flatten)]
        which: Which,
        archives: Vec<PathBuf>,
    },
    /// The work of `up`, under its supervision
    #[command(hide = true)]
    Work(Which),
    /// Make a node's namespaces
    #[command(hide = true)]
    Boot(WhichNode),
    /// Be a node's first process
    #[command(hide = true)]
    FirstProcess(WhichNode),
    /// Become a service, in its place
    #[command(hide = true)]
    Launch {
        #[command(flatten)]
        which: Which,
        #[arg(long)]
        cgroup: PathBuf,
        #[arg(long)]
        node: Option<String>,
        #[arg(last = true)]
        command: Vec<String>,
    },
}

/// Runs the command.
pub(crate) fn run(task: Task) -> Result<()> {
    crate::require_root()?;
    let place = |which: &Which| Place::named(&which.name);
    match task {
        Task::Up(which) => up(&place(&which)?),
        Task::Down(which) => supervise::claimed(&place(&which)?, down),
        Task::Stop { which, service } => {
            let place = place(&which)?;
            service::named(&place, &service)?.stop(&place)
        }
        Task::Start { which, service } => {
            let place = place(&which)?;
            service::named(&place, &service)?.start(&place)
        }
        Task::Reboot { which, node } => node::reboot(&place(&which)?, Node::named(&node)?),
        Task::Load { which, archives } => load(&place(&which)?, &archives),
        Task::Work(which) => work(&place(&which)?),
        Task::Boot(at) => node::boot(&place(&at.which)?, Node::named(&at.node)?),
        Task::FirstProcess(at) => node::first_process(&place(&at.which)?, Node::named(&at.node)?),
        Task::Launch {
            which,
            cgroup,
            node,
            command,
        } => service::launch(&place(&which)?, &cgroup, node.as_deref(), &command),
    }
}

/// Brings a cluster up under supervision: whatever ends the work early, nothing stays.
fn up(place: &Place) -> Result<()> {
    supervise::claimed(place, |place| {
        if is_up(place)? {
            println!("The cluster `{}` is up already.", place.name());
            return tell(place);
        }
        apt::ensure_all("the cluster", apt::CLUSTER_TOOLS)?;
        kubernetes::ensure_built()?;
        // What a killed run left.
        remove(place)?;
        supervise::work(place)?;
        tell(place)
    })
}

fn down(place: &Place) -> Result<()> {
    step("taking the cluster down", || remove(place))
}

/// Removes all there is of a cluster, complete or not.
fn remove(place: &Place) -> Result<()> {
    cgroups::kill(&place.cgroup())?;
    network::remove(place)?;
    cgroups::remove(&place.cgroup())?;
    let folder = place.folder()?;
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    Ok(())
}

/// What is made between nothing and a cluster at work.
fn work(place: &Place) -> Result<()> {
    let archives = step("making the images", images::build)?;
    step("making credentials, networks and disks", || {
        fs::create_dir_all(place.file("logs")?).context("making the cluster's folder")?;
        cgroups::create(&place.cgroup().join("cp"))?;
        network::create(place)?;
        control::prepare(place)?;
        NODES
            .into_iter()
            .try_for_each(|node| node::prepare(place, node))
    })?;
    let mut services = service::all(place)?;
    let mut start = |name: &str| -> Result<()> {
        let (wanted, rest): (Vec<_>, Vec<_>) = services
            .drain(..)
            .partition(|service| service.name.ends_with(name));
        services = rest;
        wanted.iter().try_for_each(|service| service.start(place))
    };
    start("etcd")?;
    start("api-server")?;
    step("switching the nodes on", || {
        NODES
            .into_iter()
            .try_for_each(|node| node::switch_on(place, node))?;
        start("/containerd")?;
        NODES
            .into_iter()
            .try_for_each(|node| node::wait_for_containerd(place, node))
    })?;
    step("loading the images", || load(place, &archives))?;
    step("waiting for the API server", || {
        until("the API server is ready", || control::is_ready(place))
    })?;
    step("starting the rest", || start(""))?;
    step("waiting for the nodes", || wait_for_nodes(place))?;
    fs::write(place.file("up")?, "").context("marking the cluster as up")
}

/// Loads archives on both nodes at once.
fn load(place: &Place, archives: &[PathBuf]) -> Result<()> {
    thread::scope(|scope| {
        let running = NODES.map(|node| {
            scope.spawn(move || {
                archives
                    .iter()
                    .try_for_each(|archive| node::load(place, node, archive))
            })
        });
        running
            .into_iter()
            .try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
    })
}

fn wait_for_nodes(place: &Place) -> Result<()> {
    let wait = |words: &str| {
        control::kubectl(place)?
            .words("wait --timeout=120s")
            .words(words)
            .output()
    };
    for node in NODES {
        wait(&format!("--for=create node/{}", node.name()))?;
    }
    wait("--for=condition=Ready node --all")?;
    // Without it the first pod would be refused.
    wait("--for=create serviceaccount/default")?;
    Ok(())
}

/// Whether a whole cluster is there, and none of its services has ended.
fn is_up(place: &Place) -> Result<bool> {
    if !place.file("up")?.exists() {
        return Ok(false);
    }
    for service in service::all(place)? {
        if !service.is_running(place)? {
            println!("{} does not run; the cluster is made anew", service.name);
            return Ok(false);
        }
    }
    Ok(true)
}

fn tell(place: &Place) -> Result<()> {
    let folder = place.folder()?;
    let name = match place.name() {
        "dev" => String::new(),
        name => format!(" --name {name}"),
    };
    println!(
        "\nkubectl     {kubectl} get pods --all-namespaces\nlogs        {logs}\na node      nsenter --target $(cat {pid}) --all\n\
         services    cargo xtask cluster stop|start{name} api-server|n1/kubelet|...\npower       cargo xtask cluster reboot{name} n1\n\
         the end     cargo xtask cluster down{name}",
        kubectl = folder.join("kubectl").display(),
        logs = folder.join("logs").display(),
        pid = folder.join("n1.pid").display(),
    );
    Ok(())
}

/// Shows what is under way, and how long it took.
fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    print!("{what} ...");
    std::io::stdout().flush()?;
    let start = Instant::now();
    let result = work();
    match &result {
        Ok(_) => println!(" {:.1} s", start.elapsed().as_secs_f64()),
        Err(_) => println!(" failed"),
    }
    result
}

/// Waits at most two minutes until something is so.
fn until(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !condition()? {
        if Instant::now() >= deadline {
            bail!("waited two minutes in vain until {what}");
        }
        thread::sleep(Duration::from_millis(50));
    }
    ensure!(deadline > Instant::now(), "waited too long until {what}");
    Ok(())
}
