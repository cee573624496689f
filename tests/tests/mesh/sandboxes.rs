//! A pod's cgroup and network namespace, found by its UID as the kubelet and a container
//! runtime leave them: real cgroups, namespaces and processes.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use isthmus_tests::cgroup::Cgroup;
use isthmus_tests::netns::Netns;
use isthmus_tests::process::Process;
use isthmus_tests::wait::wait_until;
use mesh_agent::node::Sandboxes;

const UID: &str = "5c0c64b8-5f3c-4a7e-8d6e-6b1f0a8f3c11";

/// With either driver of the kubelet, by the processes alone, and by what CNI told.
#[test]
fn core_a_pod_is_found_by_its_uid() -> Result<()> {
    let name = format!("isthmus-sandboxes-{}", std::process::id());
    let root = Cgroup::create(&name)?;
    let slice = format!("kubepods-besteffort-pod{}.slice", UID.replace('-', "_"));
    for (class, pod) in [
        ("burstable".to_owned(), format!("pod{UID}")),
        ("kubepods-besteffort.slice".to_owned(), slice),
    ] {
        let class = root.child(&class)?;
        let pod = class.child(&pod)?;
        let container = pod.child("container")?;
        let netns = Netns::create(&name)?;
        let sandboxes = Sandboxes::new(root.path().to_owned());
        ensure!(sandboxes.find(UID).is_none(), "nothing runs in it");

        let on_host = sleeper(None, &container)?;
        ensure!(
            sandboxes.find(UID).is_none(),
            "the machine's own namespace is no pod's"
        );
        drop(on_host);
        let running = sleeper(Some(&netns), &container)?;
        wait_until("the process is in its namespace", || {
            sandboxes.find(UID).is_some()
        })?;
        let found = sandboxes.find(UID);
        ensure!(
            found
                .as_ref()
                .is_some_and(|at| at.cgroup == pod.path() && at.netns == netns.path()),
            "{found:?}"
        );
        // Found by the process's path where the namespace has no name any more.
        let told = Sandboxes::new(root.path().to_owned());
        let by_process = PathBuf::from(format!("/proc/{}/ns/net", running.pid()));
        let address = "10.0.0.1".parse()?;
        told.told(UID, by_process.clone(), vec![address]);
        let found = told.find(UID);
        ensure!(
            found
                .as_ref()
                .is_some_and(|at| at.netns == by_process && at.addresses == [address]),
            "{found:?}"
        );
        drop(running);
        ensure!(told.find(UID).is_none(), "nothing runs in it any more");
        ensure!(
            sandboxes
                .find(UID)
                .is_some_and(|at| at.netns == netns.path()),
            "the namespace is there until its name goes"
        );
        drop(netns);
        ensure!(sandboxes.find(UID).is_none(), "the namespace is gone");
    }
    Ok(())
}

/// A process of the cgroup, in a namespace or the machine's.
fn sleeper(netns: Option<&Netns>, cgroup: &Cgroup) -> Result<Process> {
    let mut command = Command::new("ip");
    match netns {
        Some(netns) => command.args(["netns", "exec", netns.name(), "sleep", "1000"]),
        None => {
            command = Command::new("sleep");
            command.arg("1000")
        }
    };
    let process = Process::spawn(command)?;
    fs::write(
        cgroup.path().join("cgroup.procs"),
        process.pid().to_string(),
    )?;
    Ok(process)
}
