//! The harness itself, without an agent: what the other tests rely on.

use std::path::Path;

use anyhow::{Result, ensure};
use isthmus_tests::mesh::{Mesh, PodSpec};

/// A capture that cannot see a leak would make every other test of leaks worthless.
#[test]
fn core_capture_sees_plaintext() -> Result<()> {
    let mesh = Mesh::new()?;
    let (client, server) = (mesh.outsider("client")?, mesh.outsider("server")?);
    let _echo = server.serve("serve echo --listen [::]:8080")?;
    for to in [server.v4(8080), server.v6(8080)] {
        let capture = mesh.capture()?;
        let seen = client.client(&format!("connect {to} --send marker-Q7x"))?;
        ensure!(seen["read"] == "marker-Q7x\n", "{seen}");
        ensure!(seen["getpeername"] == to.to_string(), "{seen}");
        let recording = capture.stop()?;
        ensure!(
            recording.contains(b"marker-Q7x"),
            "a marker in the clear was not seen"
        );
        ensure!(
            !recording.contains(b"marker-Q7y"),
            "a marker that nobody sent was seen"
        );
        ensure!(
            recording.syns().iter().any(|syn| syn.to == to),
            "no SYN to {to} among {:?}",
            recording.syns()
        );
        ensure!(
            recording.beside(15008).iter().any(|d| d.to == to),
            "the connection was not seen"
        );
        ensure!(
            recording.tls13_connections(8080).is_empty(),
            "plaintext was taken for TLS"
        );
    }
    Ok(())
}

/// A marker in two segments is a leak too.
#[test]
fn capture_joins_segments() -> Result<()> {
    let mesh = Mesh::new()?;
    let (client, server) = (mesh.outsider("client")?, mesh.outsider("server")?);
    let _server = server.serve("serve end-first")?;
    let capture = mesh.capture()?;
    let seen = client.client(&format!(
        "connect {} --send mar --send-late ker",
        server.v4(8080)
    ))?;
    ensure!(seen["read"] == "first and last\n", "{seen}");
    ensure!(
        capture.stop()?.contains(b"mar\nker\n"),
        "two segments were not joined"
    );
    Ok(())
}

/// Processes of a pod must be in its cgroup before they open a socket.
#[test]
fn pod_processes_are_in_the_pod() -> Result<()> {
    let mesh = Mesh::new()?;
    let node = mesh.node("a")?;
    let pod = node.pod("web")?;
    let cgroup = pod
        .cgroup()
        .map(|c| c.path().display().to_string())
        .unwrap_or_default();
    let own = pod.run("cat", &["/proc/self/cgroup"])?.success()?;
    let directory = own
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or_default();
    ensure!(
        !directory.is_empty() && cgroup.ends_with(directory),
        "{own} is not in {cgroup}"
    );
    let addresses = pod.run("ip", &["-o", "addr"])?.success()?;
    for address in pod.addresses() {
        ensure!(
            addresses.contains(&format!(" {address}/")),
            "{address} is not among\n{addresses}"
        );
    }
    Ok(())
}

/// Every manner of the traffic tool, on a plain network, so that a failure elsewhere is the mesh's.
#[test]
fn traffic_works_without_a_mesh() -> Result<()> {
    let mesh = Mesh::new()?;
    let (client, server) = (mesh.outsider("client")?, mesh.outsider("server")?);
    let _banner = server.serve("serve banner blue --listen [::]:81 --mptcp")?;
    let _transfer = server.serve("serve transfer --listen [::]:82")?;
    let reset = server.serve("serve reset --listen [::]:83")?;
    let _udp = server.serve("udp-echo --listen [::]:84")?;
    let (v4, v6) = (server.v4(81), server.v6(81));
    for flags in [
        format!("{v4}"),
        format!("{v6}"),
        format!("{v4} --v4mapped"),
        format!("{v4} --mptcp"),
        format!("{v4} --nonblocking"),
        format!("{v4} --bind {}", client.v4(0)),
        format!("{v4} --device eth0"),
        format!("{v4} --fastopen --send hello"),
        format!("{v4} --fastopen-connect --send hello"),
    ] {
        let seen = client.client(&format!("connect {flags}"))?;
        let read = seen["read"].as_str().unwrap_or_default();
        ensure!(read.starts_with("blue accept="), "{flags}: {seen}");
        let address = if flags.starts_with('[') {
            client.v6(0)
        } else {
            client.v4(0)
        };
        ensure!(
            read.contains(&address.ip().to_string()),
            "{flags}: the server saw {read}"
        );
    }
    let seen = client.client(&format!(
        "transfer {} --bytes 3000001 --down 17",
        server.v4(82)
    ))?;
    ensure!(seen["equal"] == true, "{seen}");
    let seen = client.client(&format!(
        "flood --threads 4 --connections 200 --targets {v4}=blue,{v6}=blue"
    ))?;
    ensure!(seen["right"] == 200, "{seen}");
    let seen = client.client(&format!(
        "flood --threads 2 --connections 10 --targets {v4}=green"
    ))?;
    ensure!(
        seen["right"] == 0 && seen["wrong"]["\"blue\" instead of green"] == 10,
        "{seen}"
    );
    let seen = client.client(&format!("connect {} --send now --to-end", server.v4(83)))?;
    ensure!(seen["errno"] == "ECONNRESET", "{seen}");
    reset.wait_line(|line| line == "reset")?;
    let seen = client.client(&format!("udp {}", server.v4(84)))?;
    ensure!(seen["read"] == "question", "{seen}");
    let capture = mesh.capture()?;
    let seen = client.client(&format!("raw-syn {v4}"))?;
    ensure!(seen["sent"] == true, "{seen}");
    ensure!(
        capture
            .stop()?
            .syns()
            .iter()
            .any(|syn| syn.from.port() == 61_234 && syn.to == v4),
        "the raw SYN was not seen"
    );
    Ok(())
}

/// What a test makes goes with it, processes included.
#[test]
fn nothing_stays_behind() -> Result<()> {
    let mesh = Mesh::new()?;
    let node = mesh.node("a")?;
    let pod = node.pod_with(PodSpec::new("web").only_v4())?;
    let sleeper = pod.spawn("sleep", &["1000"])?;
    let mut traces = vec![
        mesh.config(),
        mesh.bridge().path().to_owned(),
        pod.netns().path().to_owned(),
    ];
    traces.extend(pod.cgroup().map(|c| c.path().to_owned()));
    traces.push(Path::new("/proc").join(sleeper.pid().to_string()));
    for trace in &traces {
        ensure!(trace.exists(), "{} should exist", trace.display());
    }
    // The process last: the cgroup must go although something ran in it.
    drop((pod, node, mesh));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let (name, _) = traces[0]
        .display()
        .to_string()
        .rsplit_once("/config")
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap_or_default();
    ensure!(
        !mounts.contains(&name),
        "something is still mounted below {name}"
    );
    drop(sleeper);
    for trace in &traces {
        ensure!(!trace.exists(), "{} stayed behind", trace.display());
    }
    Ok(())
}
