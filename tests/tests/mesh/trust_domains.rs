//! Several trust domains: who is named by a bundle may come and go, and nobody else.

use std::sync::Arc;

use anyhow::{Result, ensure};
use isthmus_tests::mesh::{Node, Pod};
use isthmus_tests::traffic::Talk;
use isthmus_tests::wait::wait_until;
use serde_json::Value;

use crate::abroad::{AWAY, Abroad, HOME, Roots, identity, trust, trusting};
use crate::foreign::Authority;
use crate::pair::ensure_reset;
use crate::wire::Fixed;
use crate::wire_peer::Peer;

/// Separate roots, each told to the other mesh: pods talk both ways, and all see the full
/// identity of either end.
#[test]
fn trust_domains_with_separate_roots_talk_both_ways() -> Result<()> {
    let abroad = Abroad::start(Roots::Separate)?;
    ensure!(abroad.roots_of(&abroad.a)? != abroad.roots_of(&abroad.b)?);
    abroad.ensure_both_ways()?;
    ensure_identities(&abroad)
}

/// One corporate root, whose key neither mesh has, signed the intermediates of both.
#[test]
fn trust_domains_under_one_root_talk_both_ways() -> Result<()> {
    let abroad = Abroad::start(Roots::Shared)?;
    ensure!(abroad.roots_of(&abroad.a)? == abroad.roots_of(&abroad.b)?);
    abroad.ensure_both_ways()?;
    ensure_identities(&abroad)
}

fn ensure_identities(abroad: &Abroad) -> Result<()> {
    let (home, away) = (identity(HOME, "home"), identity(AWAY, "away"));
    for (from, to, source, destination) in [
        (&abroad.a, &abroad.b, &home, &away),
        (&abroad.b, &abroad.a, &away, &home),
    ] {
        for (node, direction) in [(from, "outbound"), (to, "inbound")] {
            node.wait_access(&format!("{source} -> {destination}"), |line| {
                line["direction"] == direction
                    && line["outcome"] == "ok"
                    && line["source_identity"] == **source
                    && line["destination_identity"] == **destination
            })?;
        }
    }
    Ok(())
}

/// Only one side has the other's roots: neither direction works, and each side says whom it
/// does not trust. Then none has.
#[test]
fn trust_domains_without_a_bundle_are_refused() -> Result<()> {
    let abroad = Abroad::prepare(Roots::Separate)?;
    let roots = trusting(AWAY, &abroad.roots_of(&abroad.b)?);
    abroad.trust_at_home(&roots)?;
    abroad.start_agents()?;
    let (home, away) = (identity(HOME, "home"), identity(AWAY, "away"));

    refused(&abroad.home, &abroad.away)?;
    wait_refusal(&abroad.b, "inbound", "TLS_FOREIGN_TRUST_DOMAIN", &home)?;
    // Why, it learns where the alert comes before the reset.
    abroad.a.wait_access("the refusal", |line| {
        line["direction"] == "outbound"
            && line["outcome"] == "failed"
            && line["destination_identity"] == *away
    })?;
    refused(&abroad.away, &abroad.home)?;
    wait_refusal(&abroad.b, "outbound", "UPSTREAM_TLS", &home)?;
    let field = "metadata.annotations[isthmus.dev/trust-domain]";
    wait_problem(&abroad.b, "pod-home.yaml", field, "caCertificates")?;

    abroad.a.after(|| abroad.trust_at_home(""))?;
    refused(&abroad.home, &abroad.away)?;
    wait_refusal(&abroad.a, "outbound", "UPSTREAM_TLS", &away)?;
    wait_problem(&abroad.a, "pod-away.yaml", field, "caCertificates")
}

/// An authority that is trusted for its own mesh signs for a workload of ours: refused, also
/// where both have one root. What it signs for its own is taken.
#[test]
fn trust_domains_cannot_vouch_for_each_other() -> Result<()> {
    for (roots, reason) in [
        (Roots::Separate, "TLS_HANDSHAKE"),
        // The root would do, but the intermediate is bound to its own trust domain.
        (Roots::Shared, "TLS_FOREIGN_TRUST_DOMAIN"),
    ] {
        let abroad = Abroad::start(roots)?;
        let peer = Peer::new(&abroad.mesh)?;
        let signer = Authority::of(abroad.b.state())?;
        let at = abroad.home.v4(15008);
        // Of a pod, no socket made outside its cgroup gets out.
        let outside = abroad.mesh.outsider("outside")?;
        let try_as = |id: &str| -> Result<bool> {
            let mut config = peer.config(&abroad.away, &abroad.home)?;
            let leaf = Arc::new(signer.leaf(&[id])?);
            config.client_auth_cert_resolver = Arc::new(Fixed(Some(leaf)));
            Ok(peer.refusal(&outside, at, config)?.is_none())
        };
        ensure!(try_as(&identity(AWAY, "other"))?, "its own was refused");
        ensure!(!try_as(&identity(HOME, "home"))?, "a forgery was taken");
        wait_refusal(&abroad.a, "inbound", reason, "")?;
    }
    Ok(())
}

/// The bundle is taken away while connections stand: they are cut at once, both directions,
/// and new ones are refused, until it is back. No agent is restarted.
#[test]
fn trust_domains_are_cut_with_their_bundle() -> Result<()> {
    let abroad = Abroad::start(Roots::Separate)?;
    let bystander = abroad.a.pod("bystander")?;
    abroad.a.wait_enrolled(&bystander)?;
    let talks = || -> Result<[Talk; 2]> {
        Ok([
            Talk::open(&abroad.home, abroad.away.v4(8080))?,
            Talk::open(&abroad.away, abroad.home.v4(8080))?,
        ])
    };
    let standing = talks()?;
    let own = Talk::open(&bystander, abroad.home.v4(8080))?;
    abroad.trust_at_home("")?;
    for (talk, direction) in standing.iter().zip(["outbound", "inbound"]) {
        let end = talk.end()?;
        ensure!(end == "ECONNRESET", "the application saw {end}");
        abroad
            .a
            .wait_access("the connection that was cut", |line| {
                line["direction"] == direction
                    && line["outcome"] == "cut"
                    && line["reason"] == "PEER_UNTRUSTED"
            })?;
    }
    refused(&abroad.home, &abroad.away)?;
    refused(&abroad.away, &abroad.home)?;
    own.ask()?;

    let roots = trusting(AWAY, &abroad.roots_of(&abroad.b)?);
    abroad.a.after(|| abroad.trust_at_home(&roots))?;
    talks()?.iter().try_for_each(Talk::close)?;
    own.close()
}

/// A bundle that cannot be read leaves the one in force where it is, for what stands and for
/// new tunnels, and is said with file, field and cure.
#[test]
fn trust_domains_keep_the_last_good_bundle() -> Result<()> {
    let abroad = Abroad::start(Roots::Separate)?;
    let talk = Talk::open(&abroad.home, abroad.away.v4(8080))?;
    let good = abroad.roots_of(&abroad.b)?;
    let broken = good.replace("-----END", "----END");
    abroad
        .a
        .after(|| abroad.trust_at_home(&trusting(AWAY, &broken)))?;
    wait_problem(
        &abroad.a,
        "mesh.yaml",
        "spec.caCertificates[0].pem",
        "ca bundle",
    )?;
    talk.ask()?;
    // To another address: in a tunnel of its own.
    let new = [
        Talk::open(&abroad.home, abroad.away.v6(8080))?,
        Talk::open(&abroad.away, abroad.home.v6(8080))?,
    ];
    ensure!(trust(&abroad.a, AWAY)?["roots"] == 1);

    abroad
        .a
        .after(|| abroad.trust_at_home(&trusting(AWAY, &good)))?;
    wait_until("the problem is gone", || {
        abroad
            .a
            .cli("problems")
            .is_ok_and(|problems| problems.as_array().is_some_and(Vec::is_empty))
    })?;
    talk.close()?;
    new.iter().try_for_each(Talk::close)
}

/// A new connection fails with a reset.
fn refused(client: &Pod, server: &Pod) -> Result<()> {
    ensure_reset(&client.client(&format!("connect {} --send x", server.v4(8080)))?)
}

/// Waits for a connection of this direction that failed for this reason, whose detail says
/// `says`.
fn wait_refusal(node: &Node, direction: &str, reason: &str, says: &str) -> Result<()> {
    let matches = |line: &Value| {
        let detail = line["detail"].as_str().unwrap_or_default();
        line["direction"] == direction && line["reason"] == reason && detail.contains(says)
    };
    node.wait_access(&format!("{reason}: {says}"), matches)
        .map(drop)
}

/// Waits for a problem of this file and field, with a cure that says `cure`.
fn wait_problem(node: &Node, file: &str, field: &str, cure: &str) -> Result<()> {
    let is_it = |problem: &Value| {
        let text = problem.as_str().unwrap_or_default();
        let parts = [&format!("/{file}: "), &format!(": {field}: "), cure];
        parts.iter().all(|part| text.contains(*part))
    };
    wait_until(&format!("there is a problem of {field}"), || {
        let problems = node.cli("problems").unwrap_or_default();
        problems
            .as_array()
            .is_some_and(|problems| problems.iter().any(is_it))
    })
}
