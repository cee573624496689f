//! Operating it: the command line, metrics, readiness, keys on disk.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use anyhow::{Context, Result, ensure};
use isthmus_tests::process::{own_program, run};
use isthmus_tests::traffic::Talk;
use isthmus_tests::wait::wait_until;

use crate::asked::live;
use crate::pair::Pair;

/// The commands answer, in both forms.
#[test]
fn the_command_line() -> Result<()> {
    let pair = Pair::start()?;
    let status = pair.a.cli("status")?;
    ensure!(
        status["node"] == "a"
            && status["ready"] == true
            && status["trust_domain"] == "cluster.local",
        "{status}"
    );
    ensure!(status["inbound_mode"] == "PERMISSIVE", "{status}");
    let client = pair.a.workload("default/client")?.unwrap_or_default();
    ensure!(
        client["identity"] == pair.client.identity() && client["local"] == true,
        "{client}"
    );
    let server = pair.a.workload("default/server")?.unwrap_or_default();
    ensure!(
        server["state"] == "remote" && server["node"] == "b",
        "{server}"
    );
    for command in ["status", "workloads", "connections"] {
        let text = pair.a.cli_run(command)?.success()?;
        ensure!(
            !text.trim_start().starts_with(['{', '[']),
            "{command} prints JSON without being asked: {text}"
        );
    }
    pair.a.kill9()?;
    let dead = pair.a.cli_run("status")?;
    ensure!(
        !dead.status.success() && dead.stderr.contains("agent.sock"),
        "{dead:?}"
    );
    Ok(())
}

/// The metrics move with the traffic, under Istio's names.
#[test]
fn metrics_move() -> Result<()> {
    let pair = Pair::start()?;
    let _server = pair.server.serve("serve transfer")?;
    pair.client.client(&format!(
        "transfer {} --bytes 1000000",
        pair.server.v4(8080)
    ))?;
    for (node, reporter) in [(&pair.a, "source"), (&pair.b, "destination")] {
        let reporter = format!("reporter=\"{reporter}\"");
        let labels = [
            reporter.as_str(),
            "connection_security_policy=\"mutual_tls\"",
            &pair.client.identity().replace("spiffe://", ""),
        ];
        for (name, least) in [
            ("istio_tcp_connections_opened_total", 1.0),
            ("istio_tcp_connections_closed_total", 1.0),
            ("istio_tcp_sent_bytes_total", 1_000_000.0),
            ("istio_tcp_received_bytes_total", 1_000_000.0),
        ] {
            wait_until(&format!("{name} of {} counts", node.name()), || {
                node.metric(name, &labels).is_ok_and(|value| value >= least)
            })?;
        }
        ensure!(
            (node.metric("isthmus_enrolled_pods", &[])? - 1.0).abs() < f64::EPSILON,
            "enrolled pods"
        );
    }
    let missing = pair.a.http("/nothing")?;
    ensure!(missing.starts_with("HTTP/1.1 404"), "{missing}");
    Ok(())
}

/// The only key on disk is the authority's, and only root reads it; the socket is root's alone.
#[test]
fn keys_and_sockets_are_private() -> Result<()> {
    let pair = Pair::start()?;
    let mut private = 0;
    let mut folders = vec![pair.mesh.state()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    for path in files {
        let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
        if text.contains("PRIVATE KEY") {
            private += 1;
            let mode = std::fs::metadata(&path)?.permissions().mode() & 0o777;
            ensure!(mode == 0o600, "{} has mode {mode:o}", path.display());
        }
    }
    // The root's and the intermediate's; workloads' keys are in memory only.
    ensure!(private == 2, "{private} private keys in the state folder");
    let socket = pair.a.run_dir().join("agent.sock");
    let mode = std::fs::metadata(&socket)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "{} has mode {mode:o}", socket.display());
    for file in std::fs::read_dir(pair.a.run_dir())? {
        let path = file?.path();
        if path.is_file() {
            ensure!(
                !String::from_utf8_lossy(&std::fs::read(&path)?).contains("PRIVATE KEY"),
                "a key in {}",
                path.display()
            );
        }
    }
    Ok(())
}

/// A live connection is listed by both agents: whose it is, who proved to be at the other end,
/// where it goes, how it is secured, and bytes and age that grow.
#[test]
fn a_live_connection_is_listed() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.server.serve("serve echo")?;
    let talk = Talk::open(&pair.client, pair.server.v4(8080))?;
    let sides = [
        (&pair.a, "outbound", &pair.client, &pair.server),
        (&pair.b, "inbound", &pair.server, &pair.client),
    ];
    let mut before = Vec::new();
    for (node, direction, own, peer) in sides {
        let seen = live(node, direction)?;
        let expected = [
            ("pod", own.uid()),
            ("peer_identity", peer.identity()),
            ("destination", pair.server.v4(8080).to_string()),
            ("security", "mutual_tls".to_owned()),
            ("tls_version", "TLSv1.3".to_owned()),
        ];
        for (field, value) in expected {
            ensure!(seen[field] == value, "{field} is not {value}: {seen}");
        }
        let suite = seen["tls_suite"].as_str().unwrap_or_default();
        ensure!(suite.starts_with("TLS_"), "{seen}");
        let text = node.cli_run("connections")?.success()?;
        let line = text.lines().nth(1).unwrap_or_default();
        for word in ["TLSv1.3", &pair.server.v4(8080).to_string(), &own.uid()] {
            ensure!(line.contains(word), "{word} is not in\n{text}");
        }
        before.push(seen);
    }
    talk.ask()?;
    for ((node, direction, ..), before) in sides.iter().zip(before) {
        let now = live(node, direction)?;
        ensure!(now["id"] == before["id"], "another connection: {now}");
        for field in ["bytes_sent", "bytes_received", "age_ms"] {
            ensure!(
                now[field].as_u64() > before[field].as_u64(),
                "{field} did not grow: {before}, then {now}"
            );
        }
    }
    let from = talk.from()?.to_string();
    talk.close()?;
    for (node, direction, ..) in sides {
        let line = node.wait_access("the connection", |line| {
            line["direction"] == direction && (line["src"] == *from || line["client"] == *from)
        })?;
        ensure!(line["outcome"] == "ok", "{line}");
        let rest = node.cli("connections")?;
        ensure!(rest == serde_json::json!([]), "still listed: {rest}");
    }
    Ok(())
}

/// Whoever is not root gets nothing out of the agent.
#[test]
fn the_socket_is_for_root_alone() -> Result<()> {
    let pair = Pair::start()?;
    let ask = |user: u32| -> Result<_> {
        let mut command = std::process::Command::new(own_program("mesh-agent")?);
        command
            .args(["status", "--run-dir"])
            .arg(pair.a.run_dir())
            .uid(user);
        run(command)
    };
    const NOBODY: u32 = 65_534;
    let open = ask(0)?;
    ensure!(open.status.success(), "{open:?}");
    let refused = ask(NOBODY)?;
    ensure!(
        !refused.status.success() && refused.stderr.contains("as root"),
        "{refused:?}"
    );
    // And if the folder's mode did not keep them out, the agent itself would.
    for path in [pair.a.run_dir(), pair.a.run_dir().join("agent.sock")] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))?;
    }
    let refused = ask(NOBODY)?;
    ensure!(
        !refused.status.success() && refused.stdout.is_empty(),
        "{refused:?}"
    );
    Ok(())
}

/// Every connection leaves exactly one line in the log of each agent that carried it, also
/// when it was refused; the two lines agree on who talked to whom.
#[test]
fn one_access_line_a_connection_and_side() -> Result<()> {
    let pair = Pair::start()?;
    let _servers = (
        pair.server.serve("serve echo")?,
        pair.server.serve("serve reset --listen [::]:83")?,
    );
    let ask = |port: u16, words: &str| -> Result<String> {
        let to = pair.server.v4(port);
        let seen = pair.client.client(&format!("connect {to} {words}"))?;
        let from = seen["getsockname"].as_str().context("a source address")?;
        Ok(from.to_owned())
    };
    let mut expected = Vec::new();
    for _ in 0..5 {
        expected.push((ask(8080, "--send x")?, "ok"));
        expected.push((ask(83, "--send x --to-end")?, "failed"));
        expected.push((ask(9, "--send x")?, "failed"));
    }
    // Whatever is to come of them is written by then.
    pair.a.terminate()?;
    pair.b.terminate()?;
    for (node, direction) in [(&pair.a, "outbound"), (&pair.b, "inbound")] {
        let lines = node.access_log()?;
        ensure!(lines.len() == expected.len(), "{lines:#?}");
        for (from, outcome) in &expected {
            let of_it: Vec<_> = lines
                .iter()
                .filter(|line| line["src"] == **from || line["client"] == **from)
                .collect();
            ensure!(of_it.len() == 1, "{from} has {of_it:#?} on {}", node.name());
            let line = of_it[0];
            ensure!(
                line["outcome"] == *outcome && line["direction"] == direction,
                "{line}"
            );
            ensure!(line["source_identity"] == pair.client.identity(), "{line}");
            // Whom the client's agent did not get to talk to it does not name.
            let reached = line["reason"] != "APP_REFUSED";
            let server = &line["destination_identity"];
            ensure!(!reached || *server == pair.server.identity(), "{line}");
        }
    }
    Ok(())
}
