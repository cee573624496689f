//! Why a connection was refused, told alike by the access log, the metric and both forms of
//! `mesh-agent explain`; dry run; and recorded flows under a candidate configuration.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::Node;
use serde_json::Value;

use crate::pair::Pair;

fn policy(name: &str, head: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: default{head}}}
spec: {{selector: {{matchLabels: {{app: server}}}}, {spec}}}
"
    )
}

fn put_in_force(pair: &Pair, file: &str, yaml: &str) -> Result<()> {
    pair.a
        .after(|| pair.b.after(|| pair.mesh.write(file, yaml)))
}

/// The line of the connection to this address, in which policy refused it.
fn denied(node: &Node, direction: &str, reason: &str) -> Result<Value> {
    node.wait_access("the refusal", |line| {
        line["direction"] == direction && line["reason"] == reason
    })
}

/// What `explain CONNECTION-ID` says of the connection of a line, checked against it.
fn explained(node: &Node, line: &Value) -> Result<Value> {
    let id = line["connection"].as_str().context("a connection's name")?;
    let it = node.cli(&format!("explain {id}"))?;
    let happened = &it["happened"];
    ensure!(happened["id"] == id, "{it:#}");
    for field in ["direction", "outcome", "reason", "policy", "rule", "detail"] {
        ensure!(
            happened[field] == line[field],
            "{field}: {line:#} but {it:#}"
        );
    }
    ensure!(it["verdict"] == "denied", "{it:#}");
    Ok(it)
}

/// On the source's side, before anything crosses the network: the log, the metric, and
/// both explanations say the same.
#[test]
fn core_a_refusal_is_explained_alike_everywhere() -> Result<()> {
    let pair = Pair::start()?;
    let (client, server) = (&pair.client, &pair.server);
    let _echo = server.serve("serve echo --listen [::]:8080")?;
    let nobody = "rules: [{from: [{source: {principals: ['*/sa/nobody']}}]}]";
    put_in_force(&pair, "policy", &policy("few", "", nobody))?;

    let seen = client.client(&format!("connect {} --send x", server.v4(8080)))?;
    ensure!(seen["errno"] == "ECONNRESET", "{seen}");
    let line = denied(&pair.a, "outbound", "POLICY_NO_ALLOW")?;
    let detail = line["detail"].as_str().context("a detail")?;
    for part in [
        "default/few spec.rules[0]",
        "from[0].source.principals",
        "/sa/client",
    ] {
        ensure!(detail.contains(part), "{part} is not in {detail}");
    }
    let labels = ["reason=\"POLICY_NO_ALLOW\"", "direction=\"outbound\""];
    let refused = "isthmus_connections_refused_total";
    ensure!(pair.a.metric(refused, &labels)? == 1.0);
    let past = explained(&pair.a, &line)?;
    let (from, to) = (client.uid(), server.uid());
    let asked = pair
        .a
        .cli(&format!("explain --from {from} --to {to} --port 8080"))?;
    ensure!(asked["ways"] == past["ways"], "{asked:#} but {past:#}");
    let way = &asked["ways"][0];
    for side in ["source", "destination"] {
        ensure!(way[side]["detail"] == detail, "{side}: {way:#}");
        ensure!(way[side]["reason"] == "POLICY_NO_ALLOW", "{side}: {way:#}");
    }
    ensure!(
        past["happened"]["nearest"] == way["source"]["nearest"],
        "{past:#}"
    );
    ensure!(
        way["source"]["nearest"]["policy"] == "default/few",
        "{way:#}"
    );
    // The other node's agent has the same answer, though it never saw the connection.
    let there = pair
        .b
        .cli(&format!("explain --from {from} --to {to} --port 8080"))?;
    ensure!(there["ways"] == asked["ways"], "{there:#} but {asked:#}");

    // A DENY policy has a name and a rule; who comes in plaintext has no identity.
    let plain = "action: DENY, rules: [{from: [{source: {notPrincipals: ['*']}}]}]";
    put_in_force(&pair, "policy", &policy("known-only", "", plain))?;
    let outsider = pair.mesh.outsider("outsider")?;
    let seen = outsider.client(&format!("connect {} --send x", server.v4(8080)))?;
    ensure!(seen["errno"] == "ECONNRESET", "{seen}");
    let line = denied(&pair.b, "inbound", "POLICY_DENIED")?;
    ensure!(
        line["policy"] == "default/known-only" && line["rule"] == 0,
        "{line}"
    );
    ensure!(line.get("source_identity").is_none(), "{line}");
    let past = explained(&pair.b, &line)?;
    ensure!(
        past["asked"]["no_identity"] == "it came in plaintext",
        "{past:#}"
    );
    let way = &past["ways"][0];
    ensure!(way["destination"]["detail"] == line["detail"], "{past:#}");
    ensure!(way["transport"] == "plaintext", "{past:#}");
    let seen = client.client(&format!("connect {} --send x", server.v4(8080)))?;
    ensure!(seen["read"] == "x\n", "{seen}");
    let asked = pair
        .a
        .cli(&format!("explain --from {from} --to {to} --port 8080"))?;
    ensure!(asked["verdict"] == "allowed", "{asked:#}");
    Ok(())
}

/// Evaluated, logged and counted on both nodes, and never enforced.
#[test]
fn a_dry_run_and_an_audit_are_logged_counted_and_not_enforced() -> Result<()> {
    let pair = Pair::start()?;
    let (client, server) = (&pair.client, &pair.server);
    let _echo = server.serve("serve echo --listen [::]:8080")?;
    let trial = ", annotations: {istio.io/dry-run: 'true'}";
    let both = [
        policy("trial", trial, "action: DENY, rules: [{}]"),
        policy("watch", "", "action: AUDIT, rules: [{}]"),
    ];
    put_in_force(&pair, "policy", &both.join("---\n"))?;
    let seen = client.client(&format!("connect {} --send x", server.v4(8080)))?;
    ensure!(seen["read"] == "x\n", "{seen}");
    for (node, direction) in [(&pair.a, "outbound"), (&pair.b, "inbound")] {
        let line = node.wait_access("the connection", |line| line["direction"] == direction)?;
        ensure!(line["outcome"] == "ok", "{line}");
        ensure!(
            line["dry_run"] == "deny by default/trial spec.rules[0]",
            "{line}"
        );
        ensure!(line["audit"] == "default/watch", "{line}");
        let of = format!("direction=\"{direction}\"");
        let audited = node.metric("isthmus_connections_audited_total", &[&of])?;
        let trial = ["would=\"deny\"", &of];
        let trial = node.metric("isthmus_connections_dry_run_total", &trial)?;
        ensure!(
            (audited, trial) == (1.0, 1.0),
            "{audited} audited, {trial} on trial"
        );
        let refused = node.metric("isthmus_connections_refused_total", &[&of])?;
        ensure!(refused == 0.0, "{refused} refused");
        let id = line["connection"].as_str().context("a connection's name")?;
        let it = node.cli(&format!("explain {id}"))?;
        ensure!(
            it["happened"]["outcome"] == "ok" && it["verdict"] == "allowed",
            "{it:#}"
        );
        ensure!(it["happened"]["audited"][0] == "default/watch", "{it:#}");
    }
    Ok(())
}

/// The configuration in force, with one file more, in a folder of its own.
fn candidate(pair: &Pair, name: &str, yaml: &str) -> Result<PathBuf> {
    let folder = pair.mesh.scratch().join(name);
    fs::create_dir(&folder)?;
    for entry in fs::read_dir(pair.mesh.config())? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), folder.join(entry.file_name()))?;
        }
    }
    fs::write(folder.join("candidate.yaml"), yaml)?;
    Ok(folder)
}

/// Real flows under a candidate; what the suggestion lets in is what was seen, and put in
/// force it does what the simulation said.
#[test]
fn recorded_flows_are_simulated_and_the_suggestion_holds() -> Result<()> {
    let pair = Pair::start()?;
    let (client, server) = (&pair.client, &pair.server);
    let outsider = pair.mesh.outsider("outsider")?;
    let _echo = (
        server.serve("serve echo --listen [::]:8080")?,
        server.serve("serve echo --listen [::]:8081")?,
    );
    for _ in 0..2 {
        let seen = client.client(&format!("connect {} --send x", server.v4(8080)))?;
        ensure!(seen["read"] == "x\n", "{seen}");
    }
    let (to, of_server) = (server.v4(8080), server.uid());
    let seen = outsider.client(&format!("connect {to} --send x"))?;
    ensure!(seen["read"] == "x\n", "{seen}");
    let plain = |line: &Value| line["security"] == "plaintext" && line["outcome"] == "ok";
    pair.b.wait_access("the plaintext", plain)?;

    let flows = pair.b.cli("flows")?;
    let flows = flows.as_array().context("a list of flows")?;
    let from_client = flows
        .iter()
        .find(|it| it["source_identity"] == client.identity());
    let from_client = from_client.with_context(|| format!("{flows:#?}"))?;
    ensure!(
        from_client["count"] == 2 && from_client["port"] == 8080,
        "{from_client}"
    );
    ensure!(from_client["destination"] == of_server, "{from_client}");
    ensure!(flows.len() == 2, "{flows:#?}");

    let only_client = "rules: [{from: [{source: {principals: ['*/sa/client']}}]}, \
                       {from: [{source: {principals: ['*/sa/nobody']}}]}]";
    let folder = candidate(&pair, "few", &policy("few", "", only_client))?;
    let it = pair
        .b
        .cli(&format!("policy simulate {}", folder.display()))?;
    ensure!(
        it["judged"] == 2 && it["problems"] == serde_json::json!([]),
        "{it:#}"
    );
    let lost = it["newly_denied"].as_array().context("a list")?;
    ensure!(
        lost.len() == 1 && lost[0]["source_ip"] == outsider.v4(0).ip().to_string(),
        "{it:#}"
    );
    ensure!(lost[0]["reason"] == "POLICY_NO_ALLOW", "{it:#}");
    ensure!(it["newly_allowed"] == serde_json::json!([]), "{it:#}");
    ensure!(
        it["never_matched"] == serde_json::json!(["default/few spec.rules[1]"]),
        "{it:#}"
    );

    // The same of saved flows, without an agent.
    let saved = pair.mesh.scratch().join("flows.json");
    fs::write(&saved, serde_json::to_vec(flows)?)?;
    let (dir, file) = (folder.display(), saved.display());
    let again = pair
        .b
        .cli(&format!("policy simulate {dir} --flows {file}"))?;
    ensure!(again == it, "{again:#} but {it:#}");

    let suggestion = it["suggestion"].as_str().context("a suggestion")?;
    put_in_force(&pair, "suggestion", suggestion)?;
    for (pod, port, passes) in [
        (client, 8080, true),
        (client, 8081, false),
        (&outsider, 8080, true),
        (&outsider, 8081, false),
    ] {
        let to = server.v4(port);
        let seen = pod.client(&format!("connect {to} --send x"))?;
        let passed = seen["read"] == "x\n";
        ensure!(passed == passes, "{} to {to}: {seen}", pod.uid());
        ensure!(passed || seen["errno"] == "ECONNRESET", "{seen}");
    }
    Ok(())
}
