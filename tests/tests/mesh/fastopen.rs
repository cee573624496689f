//! TCP Fast Open: bytes in the SYN find no way around the agent, and arrive once.

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Mesh, Mtls, Pod, PodSpec};
use isthmus_tests::process::Process;
use isthmus_tests::wait::wait_until;

use crate::pair::ensure_reset;

/// `net.ipv4.tcp_fastopen`: client and server, with cookies.
const WITH_COOKIE: &str = "3";
/// Client and server, data in the SYN although there is no cookie, on every listener.
const WITHOUT_COOKIE: &str = "1543";

/// A client that had a cookie from before its pod was enrolled.
#[test]
fn core_fast_open_out_of_a_pod_is_captured() -> Result<()> {
    for sysctl in [WITH_COOKIE, WITHOUT_COOKIE] {
        let (mesh, outside) = world(Mtls::Permissive)?;
        let node = mesh.node("one")?;
        let mut pod = node.pod_with(PodSpec::new("web").outside())?;
        for pod in [&pod, &outside] {
            pod.netns().sysctl("net/ipv4/tcp_fastopen", sysctl)?;
        }
        let _echo = outside.serve("serve echo")?;
        earlier(&pod, &outside)?;
        node.start()?;
        pod.configure()?;
        node.wait_state(&pod.uid(), "enrolled")?;
        for to in [outside.v4(8080), outside.v6(8080)] {
            for flags in ["--fastopen", "--fastopen-connect", "--fastopen --mptcp"] {
                let seen = pod.client(&format!(
                    "connect {to} {flags} --send hello --half-close --to-end"
                ))?;
                ensure!(
                    seen["read"] == "hello\n",
                    "{to} {flags}: {seen}\n{}",
                    node.log_tail()
                );
                let line = node.wait_access("the connection", |line| {
                    line["dst"] == to.to_string() && line["bytes_sent"] == 6
                })?;
                ensure!(line["direction"] == "outbound", "{line}");
            }
        }
    }
    Ok(())
}

/// A client outside that had a cookie from before the pod was enrolled: refused like any other
/// under STRICT, with no byte for the application, and served like any other under PERMISSIVE.
#[test]
fn core_fast_open_into_a_pod_is_captured() -> Result<()> {
    for (mode, sysctl) in [
        (Mtls::Strict, WITH_COOKIE),
        (Mtls::Strict, WITHOUT_COOKIE),
        (Mtls::Permissive, WITH_COOKIE),
        (Mtls::Permissive, WITHOUT_COOKIE),
    ] {
        let (mesh, outside) = world(mode)?;
        let node = mesh.node("one")?;
        let mut pod = node.pod_with(PodSpec::new("web").outside())?;
        for pod in [&pod, &outside] {
            pod.netns().sysctl("net/ipv4/tcp_fastopen", sysctl)?;
        }
        let echo = pod.serve("serve echo")?;
        earlier(&outside, &pod)?;
        node.start()?;
        pod.configure()?;
        node.wait_state(&pod.uid(), "enrolled")?;
        served(&echo, 6)?;
        for to in [pod.v4(8080), pod.v6(8080)] {
            let seen = outside.client(&format!("connect {to} --fastopen --send hello"))?;
            match mode {
                Mtls::Strict => ensure_reset(&seen)?,
                Mtls::Permissive => ensure!(seen["read"] == "hello\n", "{to}: {seen}"),
            }
            node.wait_access("the connection", |line| line["dst"] == to.to_string())?;
        }
        // One more from within the pod, whose line cannot come before theirs.
        pod.client("connect 127.0.0.1:8080 --send last")?;
        served(&echo, if mode == Mtls::Strict { 7 } else { 9 })?;
    }
    Ok(())
}

fn world(mode: Mtls) -> Result<(Mesh, Pod)> {
    let mesh = Mesh::new()?;
    mesh.mtls(mode)?;
    let outside = mesh.outsider("outside")?;
    Ok((mesh, outside))
}

/// Connects until the kernel of the server has taken bytes out of a SYN: from then on the client
/// has a cookie, or needs none.
fn earlier(client: &Pod, server: &Pod) -> Result<()> {
    for to in [server.v4(8080), server.v6(8080)] {
        let before = taken(server)?;
        for _ in 0..3 {
            let words = format!("connect {to} --fastopen --send hello --half-close --to-end");
            let seen = client.client(&words)?;
            ensure!(seen["read"] == "hello\n", "{to}: {seen}");
        }
        ensure!(
            taken(server)? > before,
            "no bytes in a SYN to {to}: nothing is shown"
        );
    }
    Ok(())
}

/// Connections that the server's kernel opened with bytes in the SYN.
fn taken(server: &Pod) -> Result<u64> {
    let read = || Ok(std::fs::read_to_string("/proc/thread-self/net/netstat")?);
    let text = server.netns().run(read)?;
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (
        lines.next().context("names")?,
        lines.next().context("values")?,
    );
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs
        .find(|(name, _)| *name == "TCPFastOpenPassive")
        .context("no TCPFastOpenPassive")?;
    Ok(value.parse()?)
}

/// Waits until the server has served that many connections, and fails when they are more.
fn served(server: &Process, wanted: usize) -> Result<()> {
    let count = || {
        server
            .stdout()
            .lines()
            .filter(|line| *line != "ready")
            .count()
    };
    wait_until(&format!("{wanted} connections were served"), || {
        count() >= wanted
    })?;
    ensure!(count() == wanted, "the server said {}", server.stdout());
    Ok(())
}
