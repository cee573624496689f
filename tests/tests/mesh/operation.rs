//! Operating it: the command line, metrics, readiness, keys on disk.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Result, ensure};
use isthmus_tests::wait::wait_until;

use crate::pair::Pair;

/// The commands answer, in both forms.
#[test]
fn core_the_command_line() -> Result<()> {
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

/// `check` finds everything that is needed here, or names what is missing.
#[test]
fn core_check_finds_what_is_needed() -> Result<()> {
    let mut command =
        std::process::Command::new(isthmus_tests::process::own_program("mesh-agent")?);
    command.args(["check", "-o", "json"]);
    let finished = isthmus_tests::process::run(command)?;
    let findings: serde_json::Value = serde_json::from_str(&finished.stdout)?;
    let findings = findings.as_array().cloned().unwrap_or_default();
    ensure!(findings.len() > 5, "{}", finished.stdout);
    for finding in &findings {
        // The usual place of pins may not be mounted on a machine that runs only tests.
        let text = finding.to_string();
        ensure!(
            finding["required"] == false
                || finding["ok"] == true
                || text.contains("bpffs")
                || text.contains("/sys/fs/bpf"),
            "{finding}"
        );
        ensure!(
            finding["ok"] == true
                || finding["cure"]
                    .as_str()
                    .is_some_and(|cure| !cure.is_empty()),
            "no cure: {finding}"
        );
    }
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
fn core_keys_and_sockets_are_private() -> Result<()> {
    let pair = Pair::start()?;
    let mut private = 0;
    for entry in std::fs::read_dir(pair.mesh.state())? {
        let path = entry?.path();
        let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
        if text.contains("PRIVATE KEY") {
            private += 1;
            let mode = std::fs::metadata(&path)?.permissions().mode() & 0o777;
            ensure!(mode == 0o600, "{} has mode {mode:o}", path.display());
        }
    }
    ensure!(private == 1, "{private} private keys in the state folder");
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
