//! Many connections at once: none fails, none arrives elsewhere.

use anyhow::{Result, ensure};
use isthmus_tests::mesh::ServicePort;

use crate::pair::Pair;

/// 100,000 connections from 24 threads to four names by six addresses.
#[test]
fn a_hundred_thousand_connections() -> Result<()> {
    let pair = Pair::prepare()?;
    let (second, neighbour) = (pair.b.pod("second")?, pair.a.pod("neighbour")?);
    let outsider = pair.mesh.outsider("outsider")?;
    let ports = [ServicePort {
        port: 80,
        target: 8080,
    }];
    let (service, _) = pair.mesh.service("second", &ports, &[(&second, true)])?;
    pair.start_agents()?;
    pair.b.wait_enrolled(&second)?;
    pair.a.wait_enrolled(&neighbour)?;
    let pods = [
        (&pair.server, "blue"),
        (&second, "green"),
        (&neighbour, "red"),
        (&outsider, "grey"),
    ];
    let servers = pods.map(|(pod, name)| pod.serve(&format!("serve banner {name}")));
    for server in &servers {
        ensure!(server.is_ok(), "{server:?}");
    }
    let targets = format!(
        "{}=blue,{}=blue,{}=green,{service}:80=green,{}=red,{}=grey",
        pair.server.v4(8080),
        pair.server.v6(8080),
        second.v6(8080),
        neighbour.v4(8080),
        outsider.v4(8080),
    );
    let words = format!("flood --threads 24 --connections 100000 --targets {targets}");
    let mut flood = pair.client.start(&words)?;
    ensure!(flood.wait_at_most(1800)?.success(), "{}", flood.stdout());
    let seen: serde_json::Value = serde_json::from_str(&flood.stdout())?;
    ensure!(seen["right"] == 100_000, "{seen}");
    Ok(())
}

/// Every connection leaves exactly one line in the log of each agent that carried it.
#[test]
fn one_line_for_each_connection() -> Result<()> {
    let pair = Pair::start()?;
    let _server = pair.server.serve("serve banner blue")?;
    let seen = pair.client.client(&format!(
        "flood --threads 4 --connections 500 --targets {}=blue",
        pair.server.v4(8080)
    ))?;
    ensure!(seen["right"] == 500, "{seen}");
    for node in [&pair.a, &pair.b] {
        isthmus_tests::wait::wait_until("there are 500 lines", || {
            node.access_log().is_ok_and(|lines| lines.len() == 500)
        })?;
        let lines = node.access_log()?;
        ensure!(
            lines.iter().all(|line| line["outcome"] == "ok"),
            "{:?}",
            lines.iter().find(|line| line["outcome"] != "ok")
        );
        let mut ids: Vec<_> = lines
            .iter()
            .map(|line| line["connection"].to_string())
            .collect();
        ids.sort();
        ids.dedup();
        ensure!(
            ids.len() == 500,
            "{} different names for 500 connections",
            ids.len()
        );
    }
    Ok(())
}
