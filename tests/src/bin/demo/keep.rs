//! What to look at in a demo that was kept: commands that work as they are printed.

use anyhow::{Context, Result};
use isthmus_tests::mesh::{Node, Pod};
use isthmus_tests::process::own_program;

use crate::nginx;
use crate::screen::Screen;
use crate::stage::Stage;

/// Prints them.
pub(crate) fn print(screen: &Screen, stage: &Stage) -> Result<()> {
    screen.headline("It is left running. To look around:");
    let agent = own_program("mesh-agent")?.display().to_string();
    screen.offer(
        "the agents (each of them by its folder)",
        &both(stage, |node| {
            ["status", "workloads", "connections"]
                .map(|command| {
                    let folder = node.run_dir();
                    format!("{agent} {command} --run-dir {}", folder.display())
                })
                .to_vec()
        }),
    );
    screen.offer(
        "a request from shop (a process is of a pod when it is in its cgroup and its namespace)",
        &[
            inside(&stage.shop, &curl(&stage.service.to_string()))?,
            inside(&stage.shop, &curl(&stage.web().to_string()))?,
        ],
    );
    screen.offer(
        "a request from outside the mesh, to be refused",
        &[format!(
            "ip netns exec {} {}",
            stage.stranger.netns().name(),
            curl(&stage.web().to_string())
        )],
    );
    screen.offer(
        "what stands in the kernel",
        &both(stage, |node| {
            let pins = node.pin_dir();
            vec![
                format!("bpftool cgroup tree {}", node.pods_cgroup().display()),
                format!(
                    "for link in {}/links/*; do bpftool link show pinned $link; done",
                    pins.display()
                ),
                format!(
                    "bpftool map dump pinned {}/maps/isthmus_pods",
                    pins.display()
                ),
            ]
        }),
    );
    screen.offer(
        "the wire",
        &[format!(
            "ip netns exec {} tcpdump -ni br0 tcp",
            stage.mesh.bridge().name()
        )],
    );
    screen.offer(
        "configuration (change it: the agents watch it) and logs",
        &[
            format!("ls {}", stage.mesh.config().display()),
            format!("tail -f {}", stage.node_a.log_file().display()),
            format!("tail -f {}", stage.node_b.log_file().display()),
        ],
    );
    screen.offer("to remove it all", &["cargo xtask demo --clean".to_owned()]);
    Ok(())
}

fn curl(to: &str) -> String {
    format!("curl -sS http://{to}/ -H \"{}: hello\"", nginx::HEADER)
}

fn both(stage: &Stage, commands: impl Fn(&Node) -> Vec<String>) -> Vec<String> {
    [&stage.node_a, &stage.node_b]
        .into_iter()
        .flat_map(commands)
        .collect()
}

/// A shell command that runs `command` as a process of a pod. The cgroup first: `ip netns exec`
/// hides /sys.
fn inside(pod: &Pod, command: &str) -> Result<String> {
    let cgroup = pod.cgroup().context("a pod of the mesh")?.path();
    Ok(format!(
        "sh -c 'echo $$ > {}/cgroup.procs && exec ip netns exec {} {command}'",
        cgroup.display(),
        pod.netns().name()
    ))
}
