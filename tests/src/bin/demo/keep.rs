//! What to look at in a demo that was kept: commands that work as they are printed.

use anyhow::{Context, Result};
use isthmus_tests::mesh::{Node, Pod};
use isthmus_tests::process::own_program;

use crate::screen::Screen;
use crate::stage::Stage;

/// Prints them.
pub(crate) fn print(screen: &Screen, stage: &Stage) -> Result<()> {
    screen.headline("It is left running. To look around:");
    let agent = own_program("mesh-agent")?.display().to_string();
    section(
        screen,
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
    section(
        screen,
        "a request from shop (a process is of a pod when it is in its cgroup and its namespace)",
        &[
            inside(&stage.shop, &format!("curl -sS http://{}/", stage.service))?,
            inside(&stage.shop, &format!("curl -sS http://{}/", stage.web()))?,
        ],
    );
    section(
        screen,
        "a request from outside the mesh, to be refused",
        &[format!(
            "ip netns exec {} curl -sS http://{}/",
            stage.stranger.netns().name(),
            stage.web()
        )],
    );
    section(
        screen,
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
    section(
        screen,
        "the wire",
        &[format!(
            "ip netns exec {} tcpdump -ni br0 tcp",
            stage.mesh.bridge().name()
        )],
    );
    section(
        screen,
        "configuration (change it: the agents watch it) and logs",
        &[
            format!("ls {}", stage.mesh.config().display()),
            format!("tail -f {}", stage.node_a.log_file().display()),
            format!("tail -f {}", stage.node_b.log_file().display()),
        ],
    );
    section(
        screen,
        "to remove it all",
        &["cargo xtask demo --clean".to_owned()],
    );
    Ok(())
}

fn section(screen: &Screen, what: &str, commands: &[String]) {
    screen.say(format!("# {what}"));
    for command in commands {
        screen.offer(command);
    }
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
