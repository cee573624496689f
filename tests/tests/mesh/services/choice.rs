//! Which endpoint of a Service a connection goes to: what its spec and its slices say, and
//! what the agent has seen of them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Mesh, Mtls, Node, Pod};
use isthmus_tests::process::Process;

use crate::pair::{Banner, Pair, ensure_reset};

/// The Service's cluster IP, which it has in every test here.
const SHOP: &str = "10.96.77.1";

/// Writes the Service `shop`: these lines in its spec, and at each of these addresses an
/// endpoint with these further fields. Port 80 leads to 8080.
fn write(mesh: &Mesh, spec: &str, endpoints: &[(SocketAddr, &str)]) -> Result<()> {
    let mut yaml = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: shop, namespace: default}}
spec: {{clusterIP: {SHOP}, ports: [{{port: 80, targetPort: 8080}}], {spec}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: shop-1, namespace: default, labels: {{kubernetes.io/service-name: shop}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints:
"
    );
    for (address, fields) in endpoints {
        writeln!(yaml, "  - {{addresses: [{}], {fields}}}", address.ip())?;
    }
    mesh.write("service-shop", &yaml)
}

/// Whom one connection reached.
fn reach(client: &Pod, to: &str) -> Result<String> {
    let seen = client.client(&format!("connect {to}"))?;
    Ok(Banner::of(&seen)?.name)
}

/// Whom so many connections reached, each of which has to reach somebody.
fn reached(client: &Pod, to: &str, connections: usize) -> Result<BTreeSet<String>> {
    (0..connections).map(|_| reach(client, to)).collect()
}

fn shop() -> String {
    format!("{SHOP}:80")
}

/// Pods of `node`, each a banner server by its own name.
fn servers<const N: usize>(node: &Node, a: &Node, names: [&str; N]) -> Result<Vec<(Pod, Process)>> {
    let pods: Vec<Pod> = names
        .into_iter()
        .map(|it| node.pod(it))
        .collect::<Result<_>>()?;
    let mut serving = Vec::new();
    for (pod, name) in pods.into_iter().zip(names) {
        node.wait_state(&pod.uid(), "enrolled")?;
        if a.name() != node.name() {
            a.wait_state(&pod.uid(), "remote")?;
        }
        let server = pod.serve(&format!("serve banner {name}"))?;
        serving.push((pod, server));
    }
    Ok(serving)
}

/// A client stays with its endpoint, over changes of the configuration too, until that is no
/// longer ready; another client has one of its own.
#[test]
fn session_affinity_holds_and_moves() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let servers = servers(&pair.b, &pair.a, ["one", "two", "three"])?;
    let affinity = "sessionAffinity: ClientIP";
    let endpoints = |unready: &str| -> Vec<(SocketAddr, &str)> {
        let names = ["one", "two", "three"].iter().zip(&servers);
        names
            .map(|(name, (pod, _))| {
                let ready = if *name == unready { "false" } else { "true" };
                let fields = match ready {
                    "false" => "conditions: {ready: false}",
                    _ => "conditions: {ready: true}",
                };
                (pod.v4(8080), fields)
            })
            .collect()
    };
    pair.a
        .after(|| write(&pair.mesh, affinity, &endpoints("")))?;
    let first = reach(&pair.client, &shop())?;
    let only = BTreeSet::from([first.clone()]);
    ensure!(
        reached(&pair.client, &shop(), 25)? == only,
        "it did not hold"
    );
    pair.a
        .after(|| pair.mesh.service("other", &[80.into()], &[]))?;
    ensure!(
        reached(&pair.client, &shop(), 25)? == only,
        "it did not outlive a change"
    );
    pair.a
        .after(|| write(&pair.mesh, affinity, &endpoints(&first)))?;
    let second = reach(&pair.client, &shop())?;
    ensure!(second != first, "{first} is not ready");
    // It stays there, also when the first is back.
    pair.a
        .after(|| write(&pair.mesh, affinity, &endpoints("")))?;
    ensure!(
        reached(&pair.client, &shop(), 25)? == BTreeSet::from([second]),
        "it did not hold after it had moved"
    );
    // Without affinity the same client is spread: that one of three is never drawn in sixty
    // has a chance of 3 × (2/3)^60.
    pair.a
        .after(|| write(&pair.mesh, "sessionAffinity: None", &endpoints("")))?;
    let spread = reached(&pair.client, &shop(), 60)?;
    ensure!(spread.len() == 3, "{spread:?}");
    Ok(())
}

/// A client whose endpoint fails stays with the one that took over.
#[test]
fn session_affinity_follows_a_failure() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let mut servers = servers(&pair.b, &pair.a, ["one", "two", "three"])?;
    let endpoints: Vec<_> = servers.iter().map(|(pod, _)| (pod.v4(8080), "")).collect();
    pair.a
        .after(|| write(&pair.mesh, "sessionAffinity: ClientIP", &endpoints))?;
    let first = reach(&pair.client, &shop())?;
    let place = ["one", "two", "three"].iter().position(|it| *it == first);
    let (pod, server) = servers.remove(place.context("a server's name")?);
    drop(server);
    let second = reach(&pair.client, &shop())?;
    ensure!(second != first, "{first} is gone");
    let _server = pod.serve(&format!("serve banner {first}"))?;
    ensure!(
        reached(&pair.client, &shop(), 25)? == BTreeSet::from([second]),
        "it went back"
    );
    Ok(())
}

/// Under `internalTrafficPolicy: Local` nothing leaves the node: not even when there is
/// nobody here, which has a reason of its own.
#[test]
fn internal_traffic_policy_local_stays_on_the_node() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let there = servers(&pair.b, &pair.a, ["there"])?;
    let here = servers(&pair.a, &pair.a, ["here"])?;
    let local = "internalTrafficPolicy: Local";
    let on = |node: &Node| format!("nodeName: {}", node.name());
    let (on_a, on_b) = (on(&pair.a), on(&pair.b));
    let remote = (there[0].0.v4(8080), on_b.as_str());
    let near = (here[0].0.v4(8080), on_a.as_str());
    pair.a.after(|| write(&pair.mesh, local, &[remote]))?;
    let capture = pair.mesh.capture()?;
    ensure_reset(&pair.client.client(&format!("connect {}", shop()))?)?;
    let line = pair
        .a
        .wait_access("the refusal", |line| line["dst"] == shop().as_str())?;
    ensure!(
        line["reason"] == "SERVICE_NO_LOCAL_ENDPOINT" && line["outcome"] == "failed",
        "{line}"
    );
    let recording = capture.stop()?;
    ensure!(recording.syns().is_empty(), "{:?}", recording.syns());
    pair.a.after(|| write(&pair.mesh, local, &[remote, near]))?;
    let all = reached(&pair.client, &shop(), 20)?;
    ensure!(all == BTreeSet::from(["here".to_owned()]), "{all:?}");
    pair.a.after(|| {
        write(
            &pair.mesh,
            "internalTrafficPolicy: Cluster",
            &[remote, near],
        )
    })?;
    let all = reached(&pair.client, &shop(), 40)?;
    ensure!(all.len() == 2, "{all:?}");
    Ok(())
}

/// Hints lead to the endpoints of this node's zone, as long as every ready one has a hint.
#[test]
fn topology_hints_lead_to_the_zone() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let servers = servers(&pair.b, &pair.a, ["near", "far"])?;
    let (near, far) = (servers[0].0.v4(8080), servers[1].0.v4(8080));
    let zone = |zone: &str| format!("hints: {{forZones: [{{name: {zone}}}]}}");
    let (in_east, in_west) = (zone("east"), zone("west"));
    let node = format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {}, labels: {{topology.kubernetes.io/zone: east}}}}\n",
        pair.a.name()
    );
    pair.mesh.write("node", &node)?;
    pair.a.after(|| {
        write(
            &pair.mesh,
            "trafficDistribution: PreferSameZone",
            &[(near, &in_east), (far, &in_west)],
        )
    })?;
    let all = reached(&pair.client, &shop(), 20)?;
    ensure!(all == BTreeSet::from(["near".to_owned()]), "{all:?}");
    pair.a
        .after(|| write(&pair.mesh, "", &[(near, &in_east), (far, "")]))?;
    let all = reached(&pair.client, &shop(), 40)?;
    ensure!(all.len() == 2, "{all:?}");
    Ok(())
}

/// While nobody is ready, those that terminate and still serve take the connections.
#[test]
fn terminating_endpoints_serve_for_want_of_others() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let servers = servers(&pair.b, &pair.a, ["leaving", "fresh"])?;
    let (leaving, fresh) = (servers[0].0.v4(8080), servers[1].0.v4(8080));
    let terminating = "conditions: {ready: false, serving: true, terminating: true}";
    for (state, expected) in [
        ("conditions: {ready: false, serving: false}", "leaving"),
        ("conditions: {ready: true}", "fresh"),
    ] {
        pair.a
            .after(|| write(&pair.mesh, "", &[(leaving, terminating), (fresh, state)]))?;
        let all = reached(&pair.client, &shop(), 20)?;
        ensure!(all == BTreeSet::from([expected.to_owned()]), "{all:?}");
    }
    Ok(())
}

/// Connections that stay open are dealt out evenly: with one worker to count them, to the
/// last one, which chance alone would do once in 2^15 times.
#[test]
fn open_connections_weigh() -> Result<()> {
    let pair = Pair::prepare()?;
    pair.mesh.mtls(Mtls::Strict)?;
    pair.a.set_options(&["--workers", "1"]);
    pair.start_agents()?;
    let servers = servers(&pair.b, &pair.a, ["one", "two"])?;
    let [one, two] = [0, 1].map(|n| servers[n].0.v4(8080));
    pair.a
        .after(|| write(&pair.mesh, "", &[(one, ""), (two, "")]))?;
    let mut held = Vec::new();
    // After every second one both have as many.
    for both in 1..=15 {
        for _ in 0..2 {
            let client = pair.client.start(&format!("connect {} --hold", shop()))?;
            client.wait_line(|line| line == "holding")?;
            held.push(client);
        }
        let all = pair.a.cli("connections")?;
        let all = all.as_array().context("a list")?;
        let to = |addr: SocketAddr| {
            let addr = addr.to_string();
            all.iter()
                .filter(|it| it["upstream"] == addr.as_str())
                .count()
        };
        ensure!((to(one), to(two)) == (both, both), "{all:#?}");
    }
    Ok(())
}

/// One dead application among three: not one of a hundred connections fails.
#[test]
fn a_dead_endpoint_among_three_costs_no_connection() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let servers = servers(&pair.b, &pair.a, ["one", "two", "dead"])?;
    let endpoints: Vec<_> = servers.iter().map(|(pod, _)| (pod.v4(8080), "")).collect();
    let mut servers = servers;
    let (_pod, server) = servers.pop().context("the dead one")?;
    drop(server);
    pair.a.after(|| write(&pair.mesh, "", &endpoints))?;
    let all = reached(&pair.client, &shop(), 100)?;
    ensure!(
        all == BTreeSet::from(["one".to_owned(), "two".to_owned()]),
        "{all:?}"
    );
    let to = shop();
    // The log follows the connections.
    let done = || -> Result<Vec<_>> {
        let lines = pair.a.access_log()?;
        Ok(lines
            .into_iter()
            .filter(|line| line["dst"] == to.as_str())
            .collect())
    };
    pair.a
        .wait_access("the hundredth", |_| done().is_ok_and(|it| it.len() >= 100))?;
    let lines = done()?;
    ensure!(
        lines.iter().all(|line| line["outcome"] == "ok"),
        "{lines:#?}"
    );
    let retried: Vec<_> = lines.iter().filter(|line| line["retries"] == 1).collect();
    let counted = pair.a.metric(
        "isthmus_endpoint_retries_total",
        &["reason=\"APP_REFUSED\""],
    )?;
    ensure!(
        !retried.is_empty() && counted as usize == retried.len(),
        "{counted} retries counted, {} logged",
        retried.len()
    );
    Ok(())
}

/// Neither does a machine that is gone, and that nobody says is.
#[test]
fn an_endpoint_that_is_silent_costs_no_connection() -> Result<()> {
    let pair = Pair::new(Mtls::Permissive)?;
    let servers = servers(&pair.b, &pair.a, ["one"])?;
    let silent = SocketAddr::from(([10, 7, 250, 250], 8080));
    let endpoints = [(servers[0].0.v4(8080), ""), (silent, "")];
    pair.a.after(|| write(&pair.mesh, "", &endpoints))?;
    let all = reached(&pair.client, &shop(), 30)?;
    ensure!(all == BTreeSet::from(["one".to_owned()]), "{all:?}");
    ensure!(
        pair.a.metric("isthmus_endpoint_retries_total", &[])? > 0.0,
        "the silent one was never tried"
    );
    Ok(())
}

/// An external address is the Service's from inside, in a tunnel as its cluster IP; what
/// its slices name outside the mesh is reached in plaintext.
#[test]
fn external_addresses_and_endpoints() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let outside = pair.mesh.outsider("outside")?;
    let _outside = outside.serve("serve banner outside")?;
    let _server = pair.server.serve("serve banner server")?;
    let external = "externalIPs: [198.51.100.7]";
    pair.a
        .after(|| write(&pair.mesh, external, &[(pair.server.v4(8080), "")]))?;
    for to in ["198.51.100.7:80", &shop()] {
        ensure!(reach(&pair.client, to)? == "server", "{to}");
        let line = pair
            .a
            .wait_access("the connection", |line| line["dst"] == to)?;
        ensure!(
            line["service"] == "default/shop" && line["tls_version"] == "TLSv1.3",
            "{line}"
        );
    }
    pair.a
        .after(|| write(&pair.mesh, external, &[(outside.v4(8080), "")]))?;
    ensure!(reach(&pair.client, "198.51.100.7:80")? == "outside");
    let line = pair.a.wait_access("the plain connection", |line| {
        line["upstream"] == outside.v4(8080).to_string()
    })?;
    ensure!(line["security"] == "plaintext", "{line}");
    Ok(())
}
