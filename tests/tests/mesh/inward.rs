//! Capture on the way in: what comes to a pod from outside reaches the agent, whatever it asks for.

use anyhow::{Result, ensure};
use isthmus_tests::mesh::Mtls;
use isthmus_tests::wait::wait_until;

use crate::pair::{Pair, counted, ensure_reset};

/// Listeners of every form are reached by way of the agent, which counts each connection.
#[test]
fn core_inbound_to_a_listener_is_taken() -> Result<()> {
    let pair = Pair::new(Mtls::Permissive)?;
    let (pod, outside) = (&pair.server, pair.mesh.outsider("outside")?);
    let _servers = [
        pod.serve("serve banner any --listen [::]:80")?,
        pod.serve(&format!("serve banner own4 --listen {}", pod.v4(81)))?,
        pod.serve(&format!("serve banner own6 --listen {}", pod.v6(82)))?,
        pod.serve("serve banner multi --listen [::]:83 --mptcp")?,
    ];
    let before = counted(&pair.b, "inbound")?;
    let mut opened = 0;
    for (to, name) in [
        (pod.v4(80), "any "),
        (pod.v6(80), "any "),
        (pod.v4(81), "own4 "),
        (pod.v6(82), "own6 "),
        (pod.v4(83), "multi "),
        (pod.v6(83), "multi "),
    ] {
        for flags in ["", "--mptcp"] {
            let seen = outside.client(&format!("connect {to} {flags}"))?;
            opened += 1;
            let read = seen["read"].as_str().unwrap_or_default();
            ensure!(read.starts_with(name), "{to} {flags}: {seen}");
            ensure!(
                seen["getpeername"] == to.to_string(),
                "{to} {flags}: {seen}"
            );
        }
    }
    // The kernel asks again for a late segment of a connection that has ended, so it may be more.
    let taken = counted(&pair.b, "inbound")? - before;
    ensure!(taken >= opened, "{taken} of {opened} were taken");
    let accounts = || {
        let log = pair.b.access_log().unwrap_or_default();
        let inbound = log.iter().filter(|line| line["direction"] == "inbound");
        u64::try_from(inbound.count()).unwrap_or_default()
    };
    wait_until("the agent accounts for each", || accounts() >= opened)?;
    ensure!(accounts() == opened, "{:?}", pair.b.access_log());
    Ok(())
}

/// A port where nothing listens, or only on loopback, is reached by the agent too, which answers
/// with a reset and says why.
#[test]
fn core_inbound_to_a_closed_port_is_taken() -> Result<()> {
    let pair = Pair::new(Mtls::Permissive)?;
    let (pod, outside) = (&pair.server, pair.mesh.outsider("outside")?);
    let _local = pod.serve("serve banner local --listen 127.0.0.1:84")?;
    let before = counted(&pair.b, "inbound")?;
    for to in [pod.v4(84), pod.v4(85), pod.v6(85)] {
        let seen = outside.client(&format!("connect {to}"))?;
        ensure_reset(&seen)?;
        let line = pair
            .b
            .wait_access("the refusal", |line| line["dst"] == to.to_string())?;
        ensure!(
            line["direction"] == "inbound" && line["reason"] == "APP_REFUSED",
            "{line}"
        );
    }
    ensure!(
        counted(&pair.b, "inbound")? >= before + 3,
        "not all were taken"
    );
    Ok(())
}
