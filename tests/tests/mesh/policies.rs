//! Policies on real connections: what the tables of the pure function say, at the corners
//! where the two agents, the kernel and running connections come in.

use anyhow::{Result, ensure};
use isthmus_tests::mesh::{Mtls, Node};
use isthmus_tests::traffic::{Flood, Talk};
use isthmus_tests::wait::wait_until;
use serde_json::json;

use crate::pair::{Pair, ensure_reset};

/// A policy of the namespace in which the tests' pods are.
fn authorization(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, \
         metadata: {{name: {name}, namespace: default}}, spec: {spec}}}"
    )
}

const OF_SERVER: &str = "selector: {matchLabels: {app: server}}";

/// Puts a policy in force on both nodes.
fn apply(pair: &Pair, name: &str, spec: &str) -> Result<()> {
    let text = authorization(name, spec);
    pair.a
        .after(|| pair.b.after(|| pair.mesh.write(name, &text)))
}

/// Both sides decide: a denied connection fails at once, and nothing of it crosses the
/// network; the line names policy and reason.
#[test]
fn a_denied_connection_does_not_cross_the_network() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let _server = pair.server.serve("serve banner blue")?;
    apply(
        &pair,
        "no-client",
        "{action: DENY, rules: [{from: [{source: {principals: \
         [cluster.local/ns/default/sa/client]}}]}]}",
    )?;
    let capture = pair.mesh.capture()?;
    let seen = pair
        .client
        .client(&format!("connect {} --send hello", pair.server.v4(8080)))?;
    ensure_reset(&seen)?;
    let line = pair
        .a
        .wait_access("the denial", |line| line["reason"] == "POLICY_DENIED")?;
    ensure!(
        line["direction"] == "outbound" && line.to_string().contains("default/no-client"),
        "{line}"
    );
    let recording = capture.stop()?;
    ensure!(recording.syns().is_empty(), "{:?}", recording.syns());
    pair.a
        .after(|| pair.b.after(|| pair.mesh.remove("no-client")))?;
    pair.ensure_blue()
}

/// The destination does not take the source's word: a source agent that knows nothing of the
/// policy is refused by the other.
#[test]
fn the_destination_decides_for_itself() -> Result<()> {
    let mut pair = Pair::prepare()?;
    pair.a.freeze_configuration()?;
    pair.start_agents()?;
    let _server = pair.server.serve("serve banner blue")?;
    let text = authorization("nobody", "{}");
    pair.b.after(|| pair.mesh.write("nobody", &text))?;
    let seen = pair
        .client
        .client(&format!("connect {} --send hello", pair.server.v4(8080)))?;
    ensure_reset(&seen)?;
    let line = pair
        .b
        .wait_access("the refusal", |line| line["reason"] == "POLICY_NO_ALLOW")?;
    ensure!(line["source_identity"] == pair.client.identity(), "{line}");
    let line = pair
        .a
        .wait_access("its echo", |line| line["reason"] == "UPSTREAM_DENIED")?;
    ensure!(line["direction"] == "outbound", "{line}");
    Ok(())
}

/// The source's agent alone learns of a change, and cuts what it no longer allows.
#[test]
fn a_change_cuts_what_it_no_longer_allows_at_the_source() -> Result<()> {
    let mut pair = Pair::prepare()?;
    pair.b.freeze_configuration()?;
    pair.start_agents()?;
    a_change_cuts(&pair, &pair.a)
}

/// The destination's agent does so too, whatever the source's believes.
#[test]
fn a_change_cuts_what_it_no_longer_allows_at_the_destination() -> Result<()> {
    let mut pair = Pair::prepare()?;
    pair.a.freeze_configuration()?;
    pair.start_agents()?;
    a_change_cuts(&pair, &pair.b)
}

/// Where both learn of a change, whichever is first cuts, and the other may see no more than
/// the end. So one of them learns of it here.
fn a_change_cuts(pair: &Pair, told: &Node) -> Result<()> {
    let _echo = (
        pair.server.serve("serve echo")?,
        pair.server.serve("serve banner blue --listen [::]:8081")?,
        pair.server.serve("serve echo --listen [::]:8082")?,
    );
    let cut = Talk::open(&pair.client, pair.server.v4(8080))?;
    let kept = Talk::open(&pair.client, pair.server.v6(8082))?;
    let flood = Flood::start(&pair.client, 2, &[(pair.server.v4(8081), "blue")])?;
    flood.wait_right()?;
    let ports = "{rules: [{to: [{operation: {ports: ['8081', '8082']}}]}]}";
    let policy = authorization("other-ports", ports);
    told.after(|| pair.mesh.write("other-ports", &policy))?;
    ensure!(cut.end()? == "ECONNRESET", "the connection went on");
    told.wait_access("the cut", |line| {
        line["outcome"] == "cut" && line["reason"] == "POLICY_CHANGED"
    })?;
    let counts = flood.stop()?;
    ensure!(
        counts["errors"] == json!({}) && counts["wrong"] == json!({}),
        "{counts}"
    );
    kept.ask()?;
    kept.close()
}

/// On trial a policy is judged and never enforced.
#[test]
fn a_dry_run_enforces_nothing() -> Result<()> {
    let pair = Pair::start()?;
    let _server = pair.server.serve("serve banner blue")?;
    let text = authorization("trial", "{action: DENY, rules: [{}]}").replace(
        "namespace: default",
        "namespace: default, annotations: {istio.io/dry-run: 'true'}",
    );
    pair.a
        .after(|| pair.b.after(|| pair.mesh.write("trial", &text)))?;
    pair.ensure_blue()
}

/// One port may be STRICT in a PERMISSIVE mesh, and a connection of before is cut on it.
#[test]
fn one_port_may_be_strict() -> Result<()> {
    let pair = Pair::start()?;
    let outsider = pair.mesh.outsider("outsider")?;
    let _servers = (
        pair.server.serve("serve echo")?,
        pair.server.serve("serve echo --listen [::]:8081")?,
    );
    let strict = Talk::open(&outsider, pair.server.v4(8080))?;
    let other = Talk::open(&outsider, pair.server.v4(8081))?;
    let text = format!(
        "{{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {{name: port, \
         namespace: default}}, spec: {{{OF_SERVER}, mtls: {{mode: PERMISSIVE}}, \
         portLevelMtls: {{8080: {{mode: STRICT}}}}}}}}"
    );
    pair.b.after(|| pair.mesh.write("port", &text))?;
    ensure!(strict.end()? == "ECONNRESET", "plaintext went on");
    let seen = outsider.client(&format!("connect {} --send x", pair.server.v4(8080)))?;
    ensure_reset(&seen)?;
    other.ask()?;
    let again = Talk::open(&outsider, pair.server.v6(8081))?;
    again.ask()?;
    let meshed = Talk::open(&pair.client, pair.server.v4(8080))?;
    meshed.ask()
}

/// A policy that cannot be read refuses what it may be about, and a broken change leaves the
/// last good one in force, shown with file, field and cure.
#[test]
fn a_broken_policy_never_opens() -> Result<()> {
    let pair = Pair::start()?;
    let _server = pair.server.serve("serve banner blue")?;
    apply(
        &pair,
        "guard",
        "{rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/friend]}}]}]}",
    )?;
    let refused = || -> Result<()> {
        let seen = pair
            .client
            .client(&format!("connect {} --send x", pair.server.v4(8080)))?;
        ensure_reset(&seen)
    };
    refused()?;
    apply(&pair, "guard", "{rulez: []}")?;
    refused()?;
    let problems = pair.b.cli("problems")?.to_string();
    ensure!(
        problems.contains("guard.yaml") && problems.contains("rulez"),
        "{problems}"
    );
    apply(&pair, "guard", "{rules: [{}]}")?;
    wait_until("it is mended", || pair.ensure_blue().is_ok())
}
