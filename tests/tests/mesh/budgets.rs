//! What one pod may take of the agent: descriptors, memory, the kernel's buffers and log lines.
//! Other pods and the control plane go on.

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Mtls, Pod};
use isthmus_tests::wait::wait_until;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::bulk::resident;
use crate::pair::Pair;

const MIB: u64 = 1 << 20;

fn budget_of(pair: &Pair, pod: &Pod, of_b: bool, field: &str) -> Result<u64> {
    let node = if of_b { &pair.b } else { &pair.a };
    let found = node.workload(&pod.uid())?.context("no such workload")?;
    found["budget"][field]
        .as_u64()
        .with_context(|| format!("no {field} in {found}"))
}

/// A pod that opens more connections than it may is refused at once, with the reason; its
/// neighbour, the command line and a new pod's enrolment do not notice.
#[test]
fn pod_descriptors_bound_one_pod_alone() -> Result<()> {
    let pair = Pair::prepare()?;
    let neighbour = pair.a.pod("neighbour")?;
    pair.a.set_options(&["--pod-descriptors", "40"]);
    pair.start_agents()?;
    let _echo = pair.server.serve("serve echo")?;
    let to = pair.server.v4(8080);
    let idle = pair.client.start(&format!("idle {to} --connections 100"))?;
    let line = idle.wait_line(|line| line.starts_with('{'))?;
    let seen: Value = serde_json::from_str(&line)?;
    let open = seen["open"].as_u64().context("a count")?;
    ensure!((30..40).contains(&open), "{seen}");
    ensure!(seen["errors"]["ECONNRESET"] == 100 - open, "{seen}");
    let line = pair.a.wait_access("POD_LIMIT", |line| {
        line["reason"] == "POD_LIMIT" && line["detail"].is_string()
    })?;
    ensure!(
        line["pod"] == "default/client"
            && line["direction"] == "outbound"
            && line["dst"] == to.to_string()
            && line["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains("--pod-descriptors")),
        "{line}"
    );
    ensure!(budget_of(&pair, &pair.client, false, "max_descriptors")? == 40);
    ensure!(budget_of(&pair, &pair.client, false, "descriptors")? > open);
    let own = ["pod=\"client\""];
    ensure!(pair.a.metric("isthmus_pod_descriptors", &own)? > 30.0);
    ensure!(pair.a.metric("isthmus_pod_descriptors_limit", &own)? == 40.0);
    let text = pair.a.cli_run("workloads")?.success()?;
    ensure!(text.contains("of 40 descriptors"), "{text}");

    let late = pair.a.pod("late")?;
    pair.a.wait_enrolled(&late)?;
    for pod in [&neighbour, &late] {
        let seen = pod.client(&format!("connect {to} --send hello"))?;
        ensure!(seen["read"] == "hello\n", "{}: {seen}", pod.uid());
    }
    idle.signal(Signal::SIGUSR1)?;
    wait_until("the pod may connect again", || {
        pair.client
            .client(&format!("connect {to} --send again"))
            .is_ok_and(|seen| seen["read"] == "again\n")
    })
}

/// Readers that stall: what the agents and the kernel hold for them is bounded, a neighbour's
/// bytes pass, and when the readers go on nothing is missing.
#[test]
fn stalled_readers_hold_bounded_memory() -> Result<()> {
    const CONNECTIONS: u64 = 200;
    const BUDGET: u64 = 64 * MIB;
    let pair = Pair::prepare()?;
    let neighbour = pair.b.pod("neighbour")?;
    pair.b
        .set_options(&["--pod-buffered-bytes", &BUDGET.to_string()]);
    pair.start_agents()?;
    let sink = pair.server.serve("serve sink")?;
    let _transfer = neighbour.serve("serve transfer")?;
    let before = [resident(&pair.a)?, resident(&pair.b)?];
    sink.signal(Signal::SIGSTOP)?;
    let mut uploads = pair.client.start(&format!(
        "uploads {} --connections {CONNECTIONS} --bytes {}",
        pair.server.v4(8080),
        4 * MIB
    ))?;
    // Nothing moves any more when the number of bytes that were sent stays.
    let mut last = 0_u64;
    let mut same = 0;
    wait_until("every upload stalls", || {
        let all = pair.a.cli("connections").unwrap_or_default();
        let all = all.as_array().cloned().unwrap_or_default();
        let sent: u64 = all.iter().filter_map(|c| c["bytes_sent"].as_u64()).sum();
        same = if sent == last { same + 1 } else { 0 };
        last = sent;
        all.len() as u64 >= CONNECTIONS && same >= 5
    })?;
    let held = budget_of(&pair, &pair.server, true, "buffered_bytes")?;
    ensure!(
        held > MIB && held <= BUDGET,
        "{held} bytes are held for the stalled readers"
    );
    for (node, before) in [&pair.a, &pair.b].into_iter().zip(before) {
        let grown = resident(node)?.saturating_sub(before);
        ensure!(
            grown < 2 * BUDGET,
            "the agent of {} grew by {} MiB",
            node.name(),
            grown / MIB
        );
    }
    let kernel = socket_memory(&pair.server)?;
    ensure!(
        kernel < CONNECTIONS * MIB,
        "the kernel holds {} MiB in the pod's sockets",
        kernel / MIB
    );
    let seen = pair.client.client(&format!(
        "transfer {} --bytes {}",
        neighbour.v4(8080),
        16 * MIB
    ))?;
    ensure!(seen["equal"] == true, "{seen}");
    sink.signal(Signal::SIGCONT)?;
    uploads.wait()?;
    let seen: Value = serde_json::from_str(&uploads.stdout())?;
    ensure!(seen["equal"] == CONNECTIONS, "{seen}");
    wait_until("nothing is held any more", || {
        budget_of(&pair, &pair.server, true, "buffered_bytes").is_ok_and(|held| held == 0)
    })
}

/// Bytes that the sockets of a pod's namespace hold in the kernel, as `ss` reads them from
/// sock_diag(7): received and not read, written and not acknowledged.
fn socket_memory(pod: &Pod) -> Result<u64> {
    let listed = pod.run("ss", &["-tmnH"])?.success()?;
    let of = |memory: &str, name: char| -> u64 {
        let mut fields = memory.split(',').filter_map(|field| {
            let number = field.strip_prefix(name)?;
            number.parse().ok()
        });
        fields.next().unwrap_or(0)
    };
    let memory = listed.split("skmem:(").skip(1);
    let memory = memory.filter_map(|rest| rest.split_once(')'));
    Ok(memory
        .map(|(memory, _)| of(memory, 'r') + of(memory, 'w'))
        .sum())
}

/// A stranger that is refused again and again has some lines and then one with the count;
/// another client's refusal has its own.
#[test]
fn refusals_of_one_stranger_leave_room_for_others() -> Result<()> {
    const ATTEMPTS: usize = 500;
    let pair = Pair::new(Mtls::Strict)?;
    let (loud, quiet) = (pair.mesh.outsider("loud")?, pair.mesh.outsider("quiet")?);
    let _echo = pair.server.serve("serve echo")?;
    let to = pair.server.v4(8080);

    let flood = loud.start(&format!("idle {to} --connections {ATTEMPTS}"))?;
    let line = flood.wait_line(|line| line.starts_with('{'))?;
    ensure!(line.contains("\"open\":0"), "{line}");
    quiet.client(&format!("connect {to} --send hello"))?;
    let own = pair.b.wait_access("the quiet client's refusal", |line| {
        line["reason"] == "PLAINTEXT_REFUSED"
            && line["src"]
                .as_str()
                .is_some_and(|src| src.starts_with(&format!("{}:", quiet.v4(0).ip())))
    })?;
    ensure!(own["count"].is_null(), "{own}");
    let from = loud.v4(0).ip().to_string();
    let counted = || -> Result<(u64, u64)> {
        let lines = pair.b.access_log()?;
        let lines = lines.iter().filter(|line| {
            let src = line["src"].as_str().unwrap_or_default();
            line["reason"] == "PLAINTEXT_REFUSED" && src.starts_with(&from)
        });
        Ok(lines.fold((0, 0), |(full, counted), line| {
            match line["count"].as_u64() {
                Some(count) => (full, counted + count),
                None => (full + 1, counted),
            }
        }))
    };
    wait_until("every refusal has a line or is counted in one", || {
        counted().is_ok_and(|(full, counted)| full + counted == ATTEMPTS as u64)
    })?;
    let (full, _) = counted()?;
    ensure!(full < 100, "{full} lines of one stranger");
    Ok(())
}

/// Metrics at the node's address name no workload without the right to it.
#[test]
fn metrics_identities_need_a_right() -> Result<()> {
    let pair = Pair::prepare()?;
    let token = pair.mesh.scratch().join("token");
    std::fs::write(&token, "the-scrapers-token")?;
    let file = token.to_str().context("UTF-8")?;
    pair.a.set_options(&["--metrics-token", file]);
    pair.b.set_options(&["--metrics-identities", "open"]);
    pair.start_agents()?;
    let _banner = pair.server.serve("serve banner blue")?;
    pair.ensure_blue()?;
    let names = ["spiffe://", "\"client\"", "\"server\""];
    let count = "istio_tcp_connections_opened_total{reporter=\"source\"";
    let nameless = pair.a.http("/metrics")?;
    for name in names {
        ensure!(!nameless.contains(name), "{name} in {nameless}");
    }
    ensure!(nameless.contains(count), "{nameless}");
    let refused = pair
        .a
        .http_with("/metrics", "Authorization: Bearer guessed\r\n")?;
    ensure!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    ensure!(!refused.contains("spiffe://"), "{refused}");
    let with = "Authorization: Bearer the-scrapers-token\r\n";
    for named in [
        pair.a.http_with("/metrics", with)?,
        pair.a.metrics()?,
        pair.b.http("/metrics")?,
    ] {
        ensure!(named.contains("spiffe://cluster.local/ns/default/sa/client"));
    }
    let ready = pair.a.http("/readyz")?;
    ensure!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    Ok(())
}
