//! Much of everything: connections, bytes, threads.

use anyhow::{Result, ensure};
use isthmus_tests::mesh::Mtls;

use crate::pair::Pair;

/// 100,000 connections from many threads to servers of different names, on two pods and in
/// both families: no error, and each one arrived where it was meant to.
#[test]
fn hundred_thousand_connections_without_a_mix_up() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let third = pair.one.pod("third")?;
    pair.one.wait_state(&third.uid(), "enrolled")?;
    let mut servers = Vec::new();
    let mut targets = Vec::new();
    for (pod, name) in [(&pair.server, "server"), (&third, "third")] {
        for port in 8080..8084 {
            let banner = format!("{name}-{port}");
            servers.push(pod.serve(&format!("serve banner {banner} --listen [::]:{port}"))?);
            targets.push(format!("{}={banner}", pod.v4(port)));
            targets.push(format!("{}={banner}", pod.v6(port)));
        }
    }
    // Chunks, so that each ends well before a process is taken to hang.
    for _ in 0..10 {
        let seen = pair.client.client(&format!(
            "flood --threads 32 --connections 10000 --targets {}",
            targets.join(",")
        ))?;
        println!("{} connections a second", seen["per_second"]);
        ensure!(seen["right"] == 10_000, "{seen}");
    }
    // Nothing is left of them but the counters.
    isthmus_tests::wait::wait_until("all connections have ended", || {
        [&pair.one, &pair.two].iter().all(|node| {
            node.cli("status")
                .is_ok_and(|status| status["connections"] == 0)
        })
    })
}

/// 1 GiB each way at once, with equal SHA-256, in both families; none of it in the clear.
#[test]
fn gibibyte_each_way_arrives_whole() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let _transfer = pair.server.serve("serve transfer --listen [::]:8080")?;
    for to in [pair.server.v4(8080), pair.server.v6(8080)] {
        let seen = pair
            .client
            .client(&format!("transfer {to} --bytes {}", 1 << 30))?;
        println!("{seen}");
        ensure!(seen["equal"] == true, "{seen}");
    }
    Ok(())
}
