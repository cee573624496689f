//! `cargo xtask cluster`: a real Kubernetes cluster of two nodes on this machine, for people to
//! try things on and for the tests of `tests/tests/cluster`. It needs root; programs are brought
//! from Debian's packages and the Go modules of Kubernetes.
//!
//! Each node is a set of namespaces (network, mounts, cgroups, processes, name) with a disk
//! folder of its own; a third network namespace holds the control plane and the bridge. All
//! processes are found by the cluster's cgroup, so a cluster of a killed run can be taken down.

mod ahead;
mod alone;
mod cgroups;
mod control;
mod images;
mod kubernetes;
mod life;
mod network;
mod node;
mod place;
mod service;
mod storage;
mod supervise;
mod test;

use std::io::Write;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

pub(crate) use self::ahead::Ahead;
pub(crate) use self::alone::Alone;
pub(crate) use self::test::{one, phase};

use self::place::{Node, Place};
use crate::build;
use crate::image::agent::{self, Arch};

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
    /// Build the agent's image (without optimisations) and load it on both nodes; or load archives
    Load {
        #[command(flatten)]
        which: Which,
        /// Archives of images; none: the agent's, freshly built
        archives: Vec<PathBuf>,
    },
    /// Run the tests in a cluster of their own, or in the one that is called so and is up
    Test {
        /// Run only tests whose names contain this
        filter: Option<String>,
        /// The cluster's name; it is taken down afterwards, unless another name is given and it was up before
        #[arg(long, default_value = test::NAME)]
        name: String,
    },
    /// Build what a cluster is made of, and the agent's image, and bring nothing up
    Prepare,
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
        Task::Up(which) => supervise::claimed(&place(&which)?, life::up),
        Task::Down(which) => supervise::claimed(&place(&which)?, life::down),
        Task::Stop { which, service } => {
            let place = place(&which)?;
            service::named(&place, &service)?.stop(&place)
        }
        Task::Start { which, service } => {
            let place = place(&which)?;
            service::named(&place, &service)?.start(&place)
        }
        Task::Reboot { which, node } => node::reboot(&place(&which)?, Node::named(&node)?),
        Task::Load { which, archives } => {
            let place = place(&which)?;
            if archives.is_empty() {
                return load_agent(&place);
            }
            life::load(&place, &archives)
        }
        Task::Prepare => {
            kubernetes::ensure_built()?;
            pack_agent().map(drop)
        }
        Task::Test { filter, name } => test::command(&Place::named(&name)?, filter.as_deref()),
        Task::Work(which) => life::work(&place(&which)?),
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

/// The agent's image as the tests use it: built without optimisations, which is quick.
fn load_agent(place: &Place) -> Result<()> {
    let archive = pack_agent()?;
    step("loading the agent's image", || {
        life::load(place, &[archive])
    })
}

fn pack_agent() -> Result<PathBuf> {
    let object = build::kernel_programs()?;
    let archive = agent::archive(Arch::Amd64);
    agent::pack(&object, Arch::Amd64, true, &archive)?;
    Ok(archive)
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
    Ok(())
}
