//! Capture: an application's connect() is taken over, whichever way it is made, and nothing
//! else is.

use anyhow::{Result, ensure};
use isthmus_tests::mesh::PodSpec;
use isthmus_tests::wait::wait_until;

use crate::pair::{Banner, Pair, ensure_only_tunnels};

const MARKER: &str = "marker-of-an-unencrypted-request";

/// Each way of connecting reaches the right server over a tunnel, both ends see each other's
/// real addresses, both agents know both identities, and no byte shows on the bridge.
#[test]
fn core_every_way_to_connect() -> Result<()> {
    let pair = Pair::start()?;
    let _server = pair
        .server
        .serve("serve banner blue --listen [::]:8080 --mptcp")?;
    let (v4, v6) = (pair.server.v4(8080), pair.server.v6(8080));
    for flags in [
        format!("{v4}"),
        format!("{v6}"),
        format!("{v4} --v4mapped"),
        format!("{v4} --nonblocking"),
        format!("{v6} --nonblocking"),
        format!("{v4} --bind {}", pair.client.v4(0)),
        format!("{v6} --bind {}", pair.client.v6(0)),
        format!("{v4} --bind 0.0.0.0:40001"),
        format!("{v4} --device eth0"),
        format!("{v6} --device eth0"),
        format!("{v4} --fastopen"),
        format!("{v4} --fastopen-connect"),
        format!("{v6} --fastopen"),
        format!("{v4} --mptcp"),
        format!("{v6} --mptcp"),
        format!("{v4} --mptcp --nonblocking"),
    ] {
        let capture = pair.mesh.capture()?;
        let seen = pair
            .client
            .client(&format!("connect {flags} --send {MARKER}"))?;
        let recording = capture.stop()?;
        let check = || -> Result<()> {
            let banner = Banner::of(&seen)?;
            ensure!(banner.name == "blue", "reached {banner:?}");
            let (destination, client) = if flags.starts_with('[') {
                (v6, pair.client.v6(0))
            } else {
                (v4, pair.client.v4(0))
            };
            ensure!(
                banner.local == destination,
                "the server's own address: {banner:?}"
            );
            ensure!(
                banner.accept.ip() == client.ip(),
                "the client's address by accept(): {banner:?}"
            );
            ensure!(
                banner.peer.ip() == client.ip(),
                "the client's address by getpeername(): {banner:?}"
            );
            let own: std::net::SocketAddr =
                seen["getsockname"].as_str().unwrap_or_default().parse()?;
            ensure!(
                own.ip().to_canonical() == client.ip(),
                "the client's own address: {seen}"
            );
            // The hook for getpeername() does not cover MPTCP: there the agent shows.
            if !flags.contains("--mptcp") {
                let peer: std::net::SocketAddr =
                    seen["getpeername"].as_str().unwrap_or_default().parse()?;
                ensure!(
                    peer.ip().to_canonical() == destination.ip() && peer.port() == 8080,
                    "whom the client sees: {seen}"
                );
            }
            ensure!(
                !recording.contains(MARKER.as_bytes()),
                "the marker was on the bridge"
            );
            ensure!(
                recording.beside(15008).is_empty(),
                "beside the tunnel: {:?}",
                recording.beside(15008)
            );
            Ok(())
        };
        check().map_err(|error| error.context(format!("connect {flags}: {seen}")))?;
    }
    for (node, direction) in [(&pair.a, "outbound"), (&pair.b, "inbound")] {
        let line = node.wait_access("both identities", |line| line["direction"] == direction)?;
        ensure!(line["source_identity"] == pair.client.identity(), "{line}");
        ensure!(
            line["destination_identity"] == pair.server.identity(),
            "{line}"
        );
        ensure!(
            line["security"] == "mutual_tls" && line["outcome"] == "ok",
            "{line}"
        );
    }
    Ok(())
}

/// The first connection opens the tunnel, so its handshake is in the recording.
#[test]
fn core_the_tunnel_is_tls13() -> Result<()> {
    let pair = Pair::start()?;
    let _server = pair.server.serve("serve echo")?;
    for to in [pair.server.v4(8080), pair.server.v6(8080)] {
        let capture = pair.mesh.capture()?;
        let seen = pair
            .client
            .client(&format!("connect {to} --send {MARKER}"))?;
        ensure!(seen["read"] == format!("{MARKER}\n"), "{seen}");
        let recording = capture.stop()?;
        ensure!(
            !recording.contains(MARKER.as_bytes()),
            "the marker was on the bridge"
        );
        ensure_only_tunnels(&recording, &pair.server)?;
    }
    Ok(())
}

/// Loopback, the pod's own address, and UDP go their usual way.
#[test]
fn core_what_is_left_alone() -> Result<()> {
    let pair = Pair::start()?;
    let _own = pair.client.serve("serve banner self --listen [::]:9000")?;
    let _udp = pair.server.serve("udp-echo --listen [::]:9001")?;
    let own = [pair.client.v4(9000), pair.client.v6(9000)];
    let loopback =
        ["127.0.0.1:9000", "127.9.9.9:9000", "[::1]:9000"].map(|a| a.parse().expect("an address"));
    let unspecified = ["0.0.0.0:9000", "[::]:9000"].map(|a| a.parse().expect("an address"));
    let all: Vec<std::net::SocketAddr> = [&own[..], &loopback, &unspecified].concat();
    for to in all {
        let seen = pair.client.client(&format!("connect {to}"))?;
        let banner = Banner::of(&seen)?;
        ensure!(banner.name == "self", "{to}: {seen}");
        if !to.ip().is_unspecified() {
            ensure!(
                banner.local == to && seen["getpeername"] == to.to_string(),
                "{to}: {seen}"
            );
        }
    }
    for to in [pair.server.v4(9001), pair.server.v6(9001)] {
        let capture = pair.mesh.capture()?;
        let seen = pair.client.client(&format!("udp {to}"))?;
        ensure!(
            seen["read"] == "question" && seen["getpeername"] == to.to_string(),
            "{seen}"
        );
        ensure!(
            capture.stop()?.contains(b"question"),
            "UDP should have crossed the bridge as it is"
        );
    }
    ensure!(
        pair.a.access_log()?.is_empty(),
        "the agent carried what is not its: {:?}",
        pair.a.access_log()?
    );
    Ok(())
}

/// A pod of the node that is not in the mesh talks as if there were none.
#[test]
fn core_pods_that_are_not_enrolled() -> Result<()> {
    let pair = Pair::prepare()?;
    pair.mesh.write(
        "namespace-plain",
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: plain\n",
    )?;
    let plain = pair.a.pod_with(PodSpec::new("plain").namespace("plain"))?;
    let outsider = pair.mesh.outsider("outsider")?;
    pair.start_agents()?;
    let _outside = outsider.serve("serve banner outside")?;
    let _plain = plain.serve("serve banner plain")?;
    for (from, to, name) in [
        (&plain, outsider.v4(8080), "outside"),
        (&outsider, plain.v4(8080), "plain"),
        (&plain, outsider.v6(8080), "outside"),
    ] {
        let capture = pair.mesh.capture()?;
        let seen = from.client(&format!("connect {to} --send {MARKER}"))?;
        ensure!(Banner::of(&seen)?.name == name, "{seen}");
        ensure!(
            capture.stop()?.contains(MARKER.as_bytes()),
            "it should have gone as it is"
        );
    }
    ensure!(
        pair.a
            .workload("plain/plain")?
            .is_some_and(|w| w["meshed"] == false),
        "{:?}",
        pair.a.workload("plain/plain")
    );
    Ok(())
}

/// A pod that opts out by its label is left alone; one that opts in is not, wherever it is.
#[test]
fn labels_decide_who_is_in() -> Result<()> {
    let pair = Pair::start()?;
    let yaml = pair.client.yaml()?;
    let out = yaml.replace("  labels:\n", "  labels:\n    isthmus.dev/mesh: disabled\n");
    pair.mesh.write("pod-default-client", &out)?;
    pair.a.wait_state("default/client", "outside-mesh")?;
    pair.mesh.write("pod-default-client", &yaml)?;
    pair.a.wait_enrolled(&pair.client)
}

/// What is pinned reads well in bpftool: names, types and fields, not bare bytes.
#[test]
fn pins_are_legible() -> Result<()> {
    let pair = Pair::start()?;
    let mut maps = 0;
    let mut pods = false;
    let mut folders = vec![pair.a.pin_dir()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = bpftool(&[
                "--json",
                "map",
                "dump",
                "pinned",
                &path.display().to_string(),
            ]);
            let Ok(text) = text else { continue };
            maps += 1;
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .to_lowercase();
            if name == "isthmus_pods" {
                pods = true;
                ensure!(text.contains("\"formatted\""), "no types: {text}");
                ensure!(text.contains("cgroup"), "no named fields: {text}");
            }
        }
    }
    ensure!(
        maps > 3 && pods,
        "{maps} pinned maps below {}, pods: {pods}",
        pair.a.pin_dir().display()
    );
    let status = pair.a.cli("status")?;
    for attachment in status["kernel"]["attachments"]
        .as_array()
        .into_iter()
        .flatten()
    {
        ensure!(attachment["attached"] == true, "{attachment}");
        let link = attachment["link_id"].to_string();
        let shown = bpftool(&["link", "show", "id", &link])?;
        ensure!(
            shown.contains(&attachment["prog_id"].to_string()),
            "{attachment} is shown as {shown}"
        );
    }
    Ok(())
}

fn bpftool(arguments: &[&str]) -> Result<String> {
    let mut command = std::process::Command::new("bpftool");
    command.args(arguments);
    isthmus_tests::process::run(command)?.success()
}

/// Enrolment is shown from the kernel's own state, and connections as they are.
#[test]
fn live_connections_are_listed() -> Result<()> {
    let pair = Pair::start()?;
    let _server = pair.server.serve("serve end-first")?;
    let hold = pair.server.serve("serve hold --listen [::]:8081")?;
    let to = pair.server.v4(8081);
    let held = pair
        .client
        .start(&format!("connect {to} --send hello --hold"))?;
    let mut shown = serde_json::Value::Null;
    wait_until("the connection is listed on both nodes", || {
        let find = |node: &isthmus_tests::mesh::Node| {
            let all = node.cli("connections").ok()?;
            all.as_array()?
                .iter()
                .find(|c| c["destination"] == to.to_string())
                .cloned()
        };
        let (out, inn) = (find(&pair.a), find(&pair.b));
        shown = serde_json::json!([out, inn]);
        out.is_some_and(|c| c["bytes_sent"] == 6) && inn.is_some()
    })
    .map_err(|error| error.context(shown.to_string()))?;
    ensure!(
        shown[0]["peer_identity"] == pair.server.identity(),
        "{shown}"
    );
    ensure!(
        shown[1]["peer_identity"] == pair.client.identity(),
        "{shown}"
    );
    ensure!(
        shown[0]["tls_version"] == "TLSv1.3" && shown[0]["pod"] == "default/client",
        "{shown}"
    );
    drop((held, hold));
    wait_until("it is gone from the list", || {
        pair.a
            .cli("connections")
            .is_ok_and(|all| all.as_array().is_some_and(Vec::is_empty))
    })
}
