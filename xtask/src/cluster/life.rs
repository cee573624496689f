//! The life of a cluster: up, and down again.

use std::fs;
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result};

use super::place::{NODES, Place};
use super::{
    cgroups, control, images, kubernetes, network, node, service, step, storage, supervise, until,
};
use crate::apt;

/// Brings a cluster up under supervision: whatever ends the work early, nothing stays.
pub(super) fn up(place: &Place) -> Result<()> {
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
}

pub(super) fn down(place: &Place) -> Result<()> {
    step("taking the cluster down", || remove(place))
}

/// Removes all there is of a cluster, complete or not.
pub(super) fn remove(place: &Place) -> Result<()> {
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
pub(super) fn work(place: &Place) -> Result<()> {
    let archives = step("making the images", images::build)?;
    step("making credentials, networks and disks", || {
        fs::create_dir_all(place.file("logs")?).context("making the cluster's folder")?;
        cgroups::create(&place.cgroup().join("cp"))?;
        network::create(place)?;
        control::prepare(place)?;
        NODES.into_iter().try_for_each(|node| {
            node::prepare(place, node)?;
            storage::prepare(place, node)
        })
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
    step("waiting for the nodes", || {
        storage::publish(place)?;
        wait_for_nodes(place)
    })?;
    fs::write(place.file("up")?, "").context("marking the cluster as up")
}

/// Loads archives on both nodes at once.
pub(super) fn load(place: &Place, archives: &[PathBuf]) -> Result<()> {
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

/// Whether a cluster was brought up, and has not ended since.
pub(super) fn is_up(place: &Place) -> Result<bool> {
    if !place.file("up")?.exists() || cgroups::processes(&place.cgroup())?.is_empty() {
        return Ok(false);
    }
    for service in service::all(place)? {
        if !service.is_running(place)? {
            println!(
                "{0} does not run: `cargo xtask cluster start --name {1} {0}` starts it",
                service.name,
                place.name()
            );
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
