//! The authority's keys are replaced under load, intermediate and root: not one connection fails.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::Pod;
use isthmus_tests::process::Process;
use isthmus_tests::traffic::{Flood, Talk};
use isthmus_tests::wait::{patience, until};
use mesh_agent::tls::handshake_failure;
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use serde_json::Value;

use crate::pair::Pair;
use crate::remote::{Remote, ensure_none_failed, serial};
use crate::wire_peer::Peer;

/// Short connections both ways all the time, and long ones.
struct Load<'a> {
    pair: &'a Pair,
    floods: [Flood; 2],
    _servers: [Process; 4],
}

impl<'a> Load<'a> {
    fn start(pair: &'a Pair) -> Result<Self> {
        let servers = [
            pair.server.serve("serve banner right")?,
            pair.client.serve("serve banner right")?,
            pair.server.serve("serve echo --listen [::]:7000")?,
            pair.client.serve("serve echo --listen [::]:7000")?,
        ];
        let floods = [
            Flood::steady(&pair.client, &[(pair.server.v4(8080), "right")])?,
            Flood::steady(&pair.server, &[(pair.client.v6(8080), "right")])?,
        ];
        let load = Self {
            pair,
            floods,
            _servers: servers,
        };
        load.wait_right()?;
        Ok(load)
    }

    /// One in each direction.
    fn talks(&self) -> Result<[Talk; 2]> {
        let Pair { client, server, .. } = self.pair;
        Ok([
            Talk::open(client, server.v6(7000))?,
            Talk::open(server, client.v4(7000))?,
        ])
    }

    fn wait_right(&self) -> Result<()> {
        self.floods.iter().try_for_each(Flood::wait_right)
    }

    /// Ends it; nothing may have failed.
    fn stop(self) -> Result<()> {
        for flood in self.floods {
            ensure_none_failed(&flood.stop()?, 500)?;
        }
        Ok(())
    }
}

/// The issuers of the certificates that both nodes use, as the journal has them.
fn issuers(remote: &Remote) -> Result<[String; 2]> {
    let of = |node, pod: &Pod| -> Result<String> {
        let entry = remote.authority.entry(&serial(node, pod)?)?;
        let issuer = entry["issuer"].as_str().context("an issuer")?;
        Ok(issuer.to_owned())
    };
    let pair = &remote.pair;
    Ok([of(&pair.a, &pair.client)?, of(&pair.b, &pair.server)?])
}

fn rotation(remote: &Remote) -> Result<Value> {
    let text = remote.authority.ca("rotate status -o json")?;
    serde_json::from_str(&text).context(text)
}

/// Waits until both nodes have certificates of the issuer that signs now, and it is not `old`.
fn wait_reissued(remote: &Remote, old: &str, seconds: u64) -> Result<()> {
    until(
        "all certificates are of the new issuer",
        patience(seconds),
        || {
            let active = rotation(remote)?["active"].take();
            let all_new = issuers(remote)?.iter().all(|issuer| active == **issuer);
            Ok((active != old && all_new).then_some(()))
        },
        || format!("{:?} {:?}", issuers(remote), rotation(remote)),
    )
}

/// Waits until both nodes trust so many roots.
fn wait_roots(remote: &Remote, count: u64) -> Result<()> {
    for node in [&remote.pair.a, &remote.pair.b] {
        until(
            &format!("{} trusts {count} roots", node.name()),
            patience(30),
            || {
                let status = node.cli("status")?;
                Ok((status["trust"][0]["roots"] == count).then_some(()))
            },
            || format!("{:?}", node.cli("status")),
        )?;
    }
    Ok(())
}

/// A new root is trusted beside the old one, signs, and is alone: no connection fails, and no
/// open one breaks, those included that the old root alone had vouched for. What the old root
/// signed is refused from then on.
#[test]
fn root_rotation_under_load_fails_no_connection() -> Result<()> {
    let remote = Remote::start(["60", "60"])?;
    let (pair, authority) = (&remote.pair, &remote.authority);
    let load = Load::start(pair)?;
    let oldest = load.talks()?;
    let [old, _] = issuers(&remote)?;
    let identity = pair.client.identity();
    authority.ca(&format!("issue --identity {identity} --out old"))?;
    let outsider = pair.mesh.outsider("outsider")?;
    ensure!(refusal(&remote, &outsider, "old")?.is_none());

    authority.ca("rotate root prepare")?;
    wait_roots(&remote, 2)?;
    load.wait_right()?;
    ensure!(issuers(&remote)? == [old.clone(), old.clone()]);
    authority.ca("rotate root activate")?;
    wait_reissued(&remote, &old, 60)?;
    load.wait_right()?;
    let [new, _] = issuers(&remote)?;
    // By then each was renewed twice, so each tunnel that takes connections was opened when both
    // of its ends had a certificate of the new root.
    until(
        "no workload's certificate of the old root is valid",
        patience(90),
        || {
            let valid = authority.list()?;
            let by_agents = |entry: &&Value| {
                entry["issuer"] == *old && (entry["node"] == "a" || entry["node"] == "b")
            };
            Ok((!valid.iter().any(|entry| by_agents(&entry))).then_some(()))
        },
        || format!("{:#?}", authority.list()),
    )?;
    oldest.iter().try_for_each(Talk::ask)?;
    let newer = load.talks()?;
    // The certificate by hand is valid, and the one that the authority's own server had.
    let early = authority.try_ca("rotate root finish")?;
    ensure!(
        !early.status.success() && early.stderr.contains("--force"),
        "{early:?}"
    );
    ensure!(refusal(&remote, &outsider, "old")?.is_none());
    authority.ca("rotate root finish --force")?;
    wait_roots(&remote, 1)?;
    load.wait_right()?;
    newer.iter().try_for_each(Talk::ask)?;
    // Nor does it take along what the old root's certificates opened before they ended.
    oldest.iter().try_for_each(Talk::ask)?;
    load.stop()?;
    newer.iter().chain(&oldest).try_for_each(Talk::close)?;
    ensure!(issuers(&remote)? == [new.clone(), new]);

    authority.ca(&format!("issue --identity {identity} --out new"))?;
    ensure!(refusal(&remote, &outsider, "new")?.is_none());
    let refused = refusal(&remote, &outsider, "old")?;
    refused.context("the old root's certificate is taken")?;
    pair.b.wait_access("a refusal of the old root", |line| {
        line["reason"] == "TLS_HANDSHAKE"
            && line["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains("not signed by an authority"))
    })?;
    Ok(())
}

/// Presents a certificate that was issued by hand to the server's pod, under the roots that the
/// authority has now; gives the refusal.
fn refusal(remote: &Remote, outsider: &Pod, certificate: &str) -> Result<Option<String>> {
    let (pair, folder) = (&remote.pair, remote.authority.folder());
    let file = |name: &str| folder.join(certificate).join(name);
    let chain = CertificateDer::pem_file_iter(file("chain.pem"))?.collect::<Result<_, _>>()?;
    let key = any_ecdsa_type(&PrivateKeyDer::from_pem_file(file("key.pem"))?)?;
    let peer = Peer::certified_in(folder)?;
    let mut config = peer.config(&pair.client, &pair.server)?;
    let certified = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    config.client_auth_cert_resolver = Arc::new(certified);
    let refusal = peer.refusal(outsider, pair.server.v4(15008), config)?;
    Ok(refusal.map(|error| handshake_failure(&error).to_string()))
}

/// A new intermediate is published, signs a minute later, and everybody goes over to it.
#[test]
fn root_rotation_of_an_intermediate_under_load_fails_no_connection() -> Result<()> {
    let remote = Remote::start(["60", "60"])?;
    let load = Load::start(&remote.pair)?;
    let talks = load.talks()?;
    let [old, _] = issuers(&remote)?;
    remote.authority.ca("rotate intermediate")?;
    wait_reissued(&remote, &old, 150)?;
    load.wait_right()?;
    talks.iter().try_for_each(Talk::ask)?;
    load.stop()?;
    talks.iter().try_for_each(Talk::close)?;
    wait_roots(&remote, 1)
}
