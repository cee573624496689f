//! Whoever is revoked is out within five seconds: what is open is cut, what is new is refused,
//! and nobody else notices. Restored, or certified anew, it is back without a restart.

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Authority, Node, Pod};
use isthmus_tests::process::Process;
use isthmus_tests::traffic::{Flood, Talk};
use isthmus_tests::wait::wait_until;
use serde_json::{Value, json};

use crate::pair::Pair;
use crate::remote::{Remote, ensure_none_failed, failures, logged_at, now, serial};

/// From the end of the command to the last word of it in the nodes' logs, in seconds.
const SOON: f64 = 5.0;

/// Two clients on node `a`, a server on node `b` and a client there: each way is crossed by who
/// is to be revoked and by who is not.
struct Stage<'a> {
    pair: &'a Pair,
    authority: &'a Authority,
    other: Pod,
    _servers: [Process; 4],
}

impl<'a> Stage<'a> {
    fn set(pair: &'a Pair, authority: &'a Authority) -> Result<Self> {
        let other = pair.a.pod("other")?;
        pair.a.wait_enrolled(&other)?;
        let servers = [
            pair.server.serve("serve banner right")?,
            other.serve("serve banner right")?,
            pair.server.serve("serve echo --listen [::]:7000")?,
            other.serve("serve echo --listen [::]:7000")?,
        ];
        wait_until("b knows the other pod", || {
            matches!(pair.b.workload(&other.uid()), Ok(Some(_)))
        })?;
        Ok(Self {
            pair,
            authority,
            other,
            _servers: servers,
        })
    }

    /// Runs a command of the authority; gives the moment before it.
    fn ca(&self, words: &str) -> Result<f64> {
        let before = now()?;
        self.authority.ca(words)?;
        Ok(before)
    }
}

fn flood(from: &Pod, to: &Pod) -> Result<Flood> {
    let flood = Flood::start(from, 2, &[(to.v4(8080), "right")])?;
    flood.wait_right()?;
    Ok(flood)
}

/// The line of a connection that was cut, and one of a new connection that was refused, both
/// within five seconds of `since`.
fn wait_judged(node: &Node, direction: &str, peer: &Pod, since: f64) -> Result<()> {
    let of = |line: &Value, outcomes: &[&str]| {
        line["reason"] == "PEER_REVOKED"
            && line["direction"] == direction
            && outcomes.iter().any(|outcome| line["outcome"] == *outcome)
    };
    let cut = node.wait_access("PEER_REVOKED, cut", |line| {
        of(line, &["cut"]) && line.to_string().contains(&peer.identity())
    })?;
    let refused = node.wait_access("PEER_REVOKED, refused", |line| {
        of(line, &["denied", "failed"])
    })?;
    for line in [cut, refused] {
        let after = logged_at(&line)? - since;
        ensure!((0.0..SOON).contains(&after), "{after} s after: {line}");
    }
    Ok(())
}

/// A client that is revoked is out, wherever it connects to; the other client loses nothing.
fn revoked_client(stage: &Stage<'_>) -> Result<()> {
    let Pair {
        a,
        b,
        client,
        server,
        ..
    } = stage.pair;
    let talks = [
        Talk::open(client, server.v4(7000))?,
        Talk::open(client, server.v6(7000))?,
    ];
    let others = [
        Talk::open(&stage.other, server.v4(7000))?,
        Talk::open(server, stage.other.v6(7000))?,
    ];
    let (mine, other) = (flood(client, server)?, flood(&stage.other, server)?);
    let back = flood(server, &stage.other)?;
    let identity = client.identity();
    let since = stage.ca(&format!("revoke --identity {identity}"))?;
    for talk in &talks {
        let end = talk.end()?;
        ensure!(end == "ECONNRESET", "the revoked client saw {end}");
    }
    mine.wait_failed()?;
    wait_judged(b, "inbound", client, since)?;
    wait_until("its agent says why it gets no other", || {
        let status = a.cli("status").unwrap_or_default().to_string();
        status.contains("ca restore")
    })?;
    let status = a.cli("status")?;
    ensure!(status.to_string().contains(&identity), "{status}");
    other.wait_right()?;
    back.wait_right()?;

    stage.ca(&format!("restore --identity {identity}"))?;
    mine.wait_right()?;
    let mine = mine.stop()?;
    ensure!(mine["wrong"] == json!({}) && failures(&mine) > 0, "{mine}");
    others.iter().try_for_each(Talk::ask)?;
    others.iter().try_for_each(Talk::close)?;
    ensure_none_failed(&other.stop()?, 100)?;
    ensure_none_failed(&back.stop()?, 100)
}

/// A server that is revoked is out: connections to it are cut where they began, and new ones
/// are refused there.
fn revoked_server(stage: &Stage<'_>) -> Result<()> {
    let Pair {
        a, client, server, ..
    } = stage.pair;
    let cut = Talk::open(client, server.v4(7000))?;
    let stays = Talk::open(client, stage.other.v4(7000))?;
    let flood = flood(client, server)?;
    let identity = server.identity();
    let since = stage.ca(&format!("revoke --identity {identity}"))?;
    let end = cut.end()?;
    ensure!(end == "ECONNRESET", "the client saw {end}");
    flood.wait_failed()?;
    wait_judged(a, "outbound", server, since)?;
    stage.ca(&format!("restore --identity {identity}"))?;
    flood.wait_right()?;
    ensure!(failures(&flood.stop()?) > 0);
    stays.close()
}

/// A certificate that is revoked is replaced by its agent, and traffic goes on with the next.
fn revoked_certificate(stage: &Stage<'_>) -> Result<()> {
    let Pair {
        a, client, server, ..
    } = stage.pair;
    let cut = Talk::open(client, server.v4(7000))?;
    let flood = flood(client, server)?;
    let old = serial(a, client)?;
    stage.ca(&format!("revoke --serial {old} --reason key-compromise"))?;
    let end = cut.end()?;
    ensure!(end == "ECONNRESET", "the client saw {end}");
    wait_until("its agent has another certificate", || {
        serial(a, client).is_ok_and(|serial| serial != old)
    })?;
    flood.wait_right()?;
    let tally = flood.stop()?;
    ensure!(tally["wrong"] == json!({}), "{tally}");
    let words = format!(
        "flood --threads 4 --connections 300 --targets {}=right",
        server.v4(8080)
    );
    ensure_none_failed(&client.client(&words)?, 300)?;
    let entry = stage.authority.entry(&old)?;
    ensure!(entry["state"] == "revoked", "{entry}");
    let now = stage.authority.entry(&serial(a, client)?)?;
    ensure!(
        now["state"] == "valid" && now["identity"] == client.identity(),
        "{now}"
    );
    now["serial"].as_str().context("a serial").map(drop)
}

#[test]
fn revocation_of_a_client_by_a_remote_authority() -> Result<()> {
    let remote = Remote::start(["86400", "86400"])?;
    revoked_client(&Stage::set(&remote.pair, &remote.authority)?)
}

#[test]
fn revocation_of_a_server_by_a_remote_authority() -> Result<()> {
    let remote = Remote::start(["86400", "86400"])?;
    revoked_server(&Stage::set(&remote.pair, &remote.authority)?)
}

#[test]
fn revocation_of_a_certificate_by_a_remote_authority() -> Result<()> {
    let remote = Remote::start(["86400", "86400"])?;
    revoked_certificate(&Stage::set(&remote.pair, &remote.authority)?)
}

/// The same without a process that serves: agents see the folder that they share change.
#[test]
fn revocation_in_a_shared_state_folder() -> Result<()> {
    let pair = Pair::start()?;
    let authority = pair.mesh.embedded_authority()?;
    let stage = Stage::set(&pair, &authority)?;
    revoked_client(&stage)?;
    revoked_certificate(&stage)
}
