//! Revocation lists that are out of date or cannot be read: their mesh is refused, said in
//! status and metrics, unless the configuration allows it; what they name is refused always.

use std::fs;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Node, Pod};
use isthmus_tests::traffic::Talk;
use isthmus_tests::wait::{patience, until, wait_until};

use crate::abroad::{AWAY, Abroad, HOME, Roots, trust, trusting_with_lists};
use crate::foreign::Authority;
use crate::pair::{Pair, ensure_reset};

const ALLOW: &str = "  revocation:\n    staleLists: ALLOW\n";
const CURRENT: &str = "isthmus_revocation_current";

/// The other mesh's list is past its nextUpdate: refused in both directions by default, let in
/// where stale lists are allowed; and whoever the stale list names is refused all the same.
#[test]
fn stale_lists_of_another_mesh_are_refused_unless_allowed() -> Result<()> {
    let abroad = Abroad::start(Roots::Separate)?;
    let (a, home, away) = (&abroad.a, &abroad.home, &abroad.away);
    let roots = abroad.roots_of(&abroad.b)?;
    let signer = Authority::of(abroad.b.state())?;
    let configure = |revoked: &[&str], next: SystemTime, stale: &str| -> Result<()> {
        let list = signer.list(revoked, next)?;
        let trusting = trusting_with_lists(AWAY, &roots, &list);
        a.after(|| abroad.trust_at_home(&format!("{trusting}{stale}")))
    };
    let hour = Duration::from_secs(3600);
    let (past, future) = (SystemTime::now() - hour, SystemTime::now() + hour);

    configure(&[], past, "")?;
    refused(home, away)?;
    refused(away, home)?;
    for direction in ["outbound", "inbound"] {
        wait_reason(a, direction, "REVOCATION_UNKNOWN", "out of date since")?;
    }
    let domain = trust(a, AWAY)?;
    let expire = domain["lists_expire_in_s"].as_i64().context("no time")?;
    ensure!(
        domain["revocation"] == "stale" && domain["refused"] == true && expire <= -3600,
        "{domain}"
    );
    ensure!(current(a, AWAY)? == 0.0 && current(a, HOME)? == 1.0);

    configure(&[], past, ALLOW)?;
    let domain = trust(a, AWAY)?;
    ensure!(
        domain["revocation"] == "stale" && domain["refused"] == false,
        "{domain}"
    );
    ensure!(current(a, AWAY)? == 0.0, "allowed, and stale all the same");
    let standing = [
        Talk::open(home, away.v4(8080))?,
        Talk::open(away, home.v4(8080))?,
    ];

    let status = abroad.b.cli("status")?;
    let serial = status["certificates"][0]["serial"]
        .as_str()
        .context("no certificate")?;
    configure(&[serial], past, ALLOW)?;
    for (talk, direction) in standing.iter().zip(["outbound", "inbound"]) {
        let end = talk.end()?;
        ensure!(end == "ECONNRESET", "the application saw {end}");
        a.wait_access("what was cut", |line| {
            line["direction"] == direction
                && line["outcome"] == "cut"
                && line["reason"] == "PEER_REVOKED"
        })?;
    }
    refused(home, away)?;
    refused(away, home)?;
    wait_reason(a, "outbound", "PEER_REVOKED", serial)?;
    wait_reason(a, "inbound", "PEER_REVOKED", serial)?;

    configure(&[], future, "")?;
    abroad.ensure_both_ways()?;
    ensure!(trust(a, AWAY)?["revocation"] == "fresh" && current(a, AWAY)? == 1.0);
    Ok(())
}

/// The own authority's list cannot be read: new handshakes are refused and the status says
/// why; what stands goes on. A list that is merely damaged is signed anew by the agent itself.
#[test]
fn stale_lists_of_ones_own_that_cannot_be_read_are_refused() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.server.serve("serve echo")?;
    let issuers = pair.mesh.state().join("ca/issuers");
    let issuer = fs::read_dir(issuers)?.next().context("no issuer")??.path();
    let list = issuer.join("crl.pem");
    let standing = Talk::open(&pair.client, pair.server.v4(8080))?;

    // Nor can it be replaced, so that the authority's own tending does not mend it meanwhile.
    fs::remove_file(&list)?;
    fs::create_dir(&list)?;
    for node in [&pair.a, &pair.b] {
        wait_revocation(node, "unreadable", 30)?;
        let own = trust(node, HOME)?;
        let error = own["error"].as_str().unwrap_or_default();
        ensure!(
            own["refused"] == true && error.contains(&list.display().to_string()),
            "{own}"
        );
        ensure!(current(node, HOME)? == 0.0);
    }
    // To another address: in a tunnel of its own.
    let to = pair.server.v6(8080);
    let seen = pair.client.client(&format!("connect {to} --send x"))?;
    ensure_reset(&seen)?;
    wait_reason(&pair.a, "outbound", "REVOCATION_UNKNOWN", "crl.pem")?;
    standing.ask()?;

    // Now it is only nonsense: noticed and mended every minute.
    let nonsense = issuer.join("nonsense");
    fs::write(&nonsense, "nonsense")?;
    fs::remove_dir(&list)?;
    fs::rename(&nonsense, &list)?;
    for node in [&pair.a, &pair.b] {
        wait_revocation(node, "fresh", 150)?;
        ensure!(current(node, HOME)? == 1.0);
    }
    ensure!(fs::read_to_string(&list)?.contains("BEGIN X509 CRL"));
    Talk::open(&pair.client, to)?.close()?;
    standing.close()
}

fn wait_revocation(node: &Node, word: &str, seconds: u64) -> Result<()> {
    until(
        &format!("revocation of {HOME} is {word} on {}", node.name()),
        patience(seconds),
        || Ok((trust(node, HOME)?["revocation"] == word).then_some(())),
        || format!("{:?}", trust(node, HOME)),
    )
}

fn current(node: &Node, domain: &str) -> Result<f64> {
    let label = format!("trust_domain=\"{domain}\"");
    ensure!(node.metrics()?.contains(&format!("{CURRENT}{{{label}}}")));
    node.metric(CURRENT, &[&label])
}

/// A new connection fails with a reset.
fn refused(client: &Pod, server: &Pod) -> Result<()> {
    ensure_reset(&client.client(&format!("connect {} --send x", server.v4(8080)))?)
}

fn wait_reason(node: &Node, direction: &str, reason: &str, says: &str) -> Result<()> {
    wait_until(&format!("{direction} {reason} {says}"), || {
        let lines = node.access_log().unwrap_or_default();
        lines.iter().any(|line| {
            let detail = line["detail"].as_str().unwrap_or_default();
            line["direction"] == direction && line["reason"] == reason && detail.contains(says)
        })
    })
}
