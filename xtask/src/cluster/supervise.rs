//! Nobody builds a cluster that another builds already, and whoever is stopped in the middle
//! leaves nothing: the work is done by a second process, which a Ctrl-C does not reach.

use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;

use super::life::remove;
use super::place::Place;
use super::service;

/// Does `work` while no other run does anything to the cluster of this name.
pub(super) fn claimed(place: &Place, work: impl FnOnce(&Place) -> Result<()>) -> Result<()> {
    // An abstract socket leaves no file behind, and goes with its process.
    let address = SocketAddr::from_abstract_name(format!("isthmus-cluster-{}", place.name()))?;
    let _claim = match UnixListener::bind_addr(&address) {
        Ok(claim) => claim,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            bail!(
                "another run is at work on the cluster `{0}`: wait for its end, or give --name another",
                place.name()
            )
        }
        Err(error) => return Err(error).context("claiming the cluster's name"),
    };
    work(place)
}

/// Runs `cluster work`; when it fails, or SIGINT, SIGTERM or SIGHUP comes, all is removed.
pub(super) fn work(place: &Place) -> Result<()> {
    let ending = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
    let mut awaited = ending.into_iter().collect::<SigSet>();
    awaited.add(Signal::SIGCHLD);
    // The standard library gives children an empty mask, so this one stays here.
    awaited.thread_block()?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["cluster", "work", "--name", place.name()])
        .process_group(0)
        .spawn()
        .context("starting the work")?;
    let status = loop {
        let signal = awaited.wait()?;
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if ending.contains(&signal) {
            killpg(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGKILL)
                .context("stopping the work")?;
            child.wait()?;
            println!("\nstopped by {signal}: removing what was made");
            remove(place)?;
            bail!("the cluster was not brought up");
        }
    };
    if !status.success() {
        tell_logs(place);
        remove(place)?;
        bail!(
            "the cluster could not be brought up, and was removed; the error and the last lines of the logs are above"
        );
    }
    awaited.thread_unblock()?;
    Ok(())
}

/// The last lines of what the services had to say.
fn tell_logs(place: &Place) {
    for service in service::all(place).into_iter().flatten() {
        let text = service
            .log(place)
            .and_then(|log| Ok(fs::read_to_string(log)?));
        let text = text.unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(5)..];
        if !last.is_empty() {
            eprintln!("--- {}\n{}", service.name, last.join("\n"));
        }
    }
}
