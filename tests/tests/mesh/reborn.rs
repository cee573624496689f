//! An address that was one pod's and is another's by now.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use isthmus_tests::mesh::{Mtls, PodSpec};
use isthmus_tests::wait::wait_until;

use crate::pair::{Pair, ensure_reset};

/// A pod is deleted and another identity gets its addresses, while the client's node still
/// believes in the old one: the handshake fails at once, also on the tunnel that was open, and
/// the newcomer receives nothing. Once the client's node knows, the newcomer is reached.
#[test]
fn a_reused_address_is_not_reached_as_its_old_owner() -> Result<()> {
    let mut pair = Pair::prepare()?;
    pair.mesh.mtls(Mtls::Strict)?;
    pair.a.freeze_configuration()?;
    pair.start_agents()?;
    let targets = [pair.server.v4(8080), pair.server.v6(8080)];
    let old = pair.server.serve("serve echo")?;
    for to in targets {
        let seen = pair.client.client(&format!("connect {to} --send before"))?;
        ensure!(seen["read"] == "before\n", "{seen}");
    }
    let addresses: Vec<IpAddr> = pair.server.addresses().to_vec();
    let (old_identity, uid) = (pair.server.identity(), pair.server.uid());
    drop(old);
    // Deleted first, with its namespace and its cgroup, since addresses must not be there twice.
    let placeholder = pair.b.pod_with(PodSpec::new("placeholder").outside())?;
    drop(std::mem::replace(&mut pair.server, placeholder));
    wait_until("the old pod is gone", || {
        matches!(pair.b.workload(&uid), Ok(None))
    })?;
    let newcomer = pair
        .b
        .pod_with(PodSpec::new("newcomer").addresses(&addresses))?;
    pair.b.wait_enrolled(&newcomer)?;
    // What a network plugin's announcement does: the old pod's hardware address is forgotten.
    pair.client.netns().ip("neigh flush all")?;
    let server = newcomer.serve("serve echo")?;
    for to in targets {
        let seen = pair
            .client
            .client(&format!("connect {to} --send for-the-old-one"))?;
        ensure_reset(&seen)?;
        let line = pair.a.wait_access("the wrong identity", |line| {
            line["reason"] == "UPSTREAM_WRONG_IDENTITY" && line["dst"] == to.to_string()
        })?;
        let detail = line["detail"].as_str().unwrap_or_default();
        ensure!(
            detail.contains(&old_identity) && detail.contains(&newcomer.identity()),
            "it does not say who was expected and who was there: {line}"
        );
    }
    ensure!(
        server.stdout() == "ready\n",
        "the newcomer got: {}",
        server.stdout()
    );
    let (admitted, newcomer_uid) = (pair.b.access_log()?, newcomer.uid());
    ensure!(
        !admitted
            .iter()
            .any(|line| line["pod"] == newcomer_uid && line["outcome"] == "ok"),
        "the newcomer's agent carried something: {admitted:#?}"
    );

    pair.a.update_configuration()?;
    pair.a.wait_state(&newcomer.uid(), "remote")?;
    wait_until("the client's node has forgotten the old pod", || {
        matches!(pair.a.workload(&uid), Ok(None))
    })?;
    for to in targets {
        let seen = pair.client.client(&format!("connect {to} --send after"))?;
        ensure!(seen["read"] == "after\n", "{seen}");
        pair.a.wait_access("the newcomer", |line| {
            line["destination_identity"] == newcomer.identity() && line["dst"] == to.to_string()
        })?;
    }
    Ok(())
}
