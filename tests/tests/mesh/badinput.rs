//! Bad configuration: one clear problem for each mistake, all at once, and the rest goes on.

use anyhow::{Result, ensure};
use isthmus_tests::mesh::PodSpec;
use isthmus_tests::wait::{patience, until};

use crate::pair::{Banner, Pair};

/// Waits until the node reports a problem that has all these words; gives the line.
fn problem(pair: &Pair, words: &[&str]) -> Result<String> {
    let mut last = serde_json::Value::Null;
    until(
        &format!("a problem with {words:?} is reported"),
        patience(30),
        || {
            last = pair.a.cli("status")?["config"]["problems"].take();
            let lines = last
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|line| line.as_str());
            Ok(lines
                .filter(|line| words.iter().all(|word| line.contains(word)))
                .map(str::to_owned)
                .next())
        },
        String::new,
    )
    .map_err(|error| error.context(format!("{last:#}")))
}

/// Each mistake names its file and its field; what is right keeps working.
#[test]
fn every_mistake_is_named() -> Result<()> {
    let pair = Pair::prepare()?;
    let lost = pair.a.pod_with(PodSpec::new("lost").outside())?;
    let yaml = lost.yaml()?;
    pair.mesh.write(
        "broken",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: [unclosed\n",
    )?;
    pair.mesh.write(
        "mesh",
        "apiVersion: isthmus.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec: {trustDomian: cluster.local}\n",
    )?;
    pair.mesh.write(
        "no-netns",
        &yaml.replace(
            &lost.netns().path().display().to_string(),
            "/run/netns/nowhere",
        ),
    )?;
    let cgroup = lost
        .cgroup()
        .map(|c| c.path().display().to_string())
        .unwrap_or_default();
    let nowhere = yaml
        .replace(&cgroup, &format!("{cgroup}-nowhere"))
        .replace("name: lost", "name: lost-too");
    let nowhere = lost
        .addresses()
        .iter()
        .zip(["10.7.99.1", "fd07::9901"])
        .fold(nowhere, |y, (old, new)| {
            y.replace(&format!("\"{old}\""), &format!("\"{new}\""))
        });
    pair.mesh.write("no-cgroup", &nowhere)?;
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny, namespace: default}\nspec: {}\n";
    pair.mesh.write("policy", policy)?;
    pair.start_agents()?;
    problem(&pair, &["broken.yaml", "line"])?;
    problem(&pair, &["mesh.yaml", "trustDomian"])?;
    problem(
        &pair,
        &["no-netns.yaml", "isthmus.dev/netns", "/run/netns/nowhere"],
    )?;
    problem(&pair, &["no-cgroup.yaml", "isthmus.dev/cgroup", "-nowhere"])?;
    problem(&pair, &["policy.yaml", "AuthorizationPolicy"])?;
    let _server = pair.server.serve("serve banner blue")?;
    ensure!(
        Banner::of(
            &pair
                .client
                .client(&format!("connect {}", pair.server.v4(8080)))?
        )?
        .name
            == "blue",
        "the rest"
    );
    Ok(())
}

/// Two pods with one address: both files are named, and the address belongs to neither newcomer.
#[test]
fn two_pods_with_one_address() -> Result<()> {
    let pair = Pair::start()?;
    // On the network it has an address of its own; only its YAML lies.
    let thief = pair.a.pod_with(PodSpec::new("thief").outside())?;
    let claims = thief.addresses().iter().zip(pair.server.addresses());
    let yaml = claims.fold(thief.yaml()?, |yaml, (own, claimed)| {
        yaml.replace(&format!("\"{own}\""), &format!("\"{claimed}\""))
    });
    pair.mesh.write("thief", &yaml)?;
    problem(&pair, &["thief.yaml", "podIPs", "default/server"])?;
    ensure!(
        pair.a
            .workload("default/thief")?
            .is_none_or(|w| w["state"] != "enrolled"),
        "the thief was enrolled"
    );
    pair.mesh.remove("thief")?;
    let _server = pair.server.serve("serve banner blue")?;
    until(
        "the address belongs to the server again",
        patience(30),
        || {
            let seen = pair
                .client
                .client(&format!("connect {}", pair.server.v4(8080)))?;
            Ok(Banner::of(&seen)
                .is_ok_and(|banner| banner.name == "blue")
                .then_some(()))
        },
        String::new,
    )
}

/// A file that breaks keeps its last good content in force, until it is mended.
#[test]
fn a_file_breaks_and_is_mended() -> Result<()> {
    let pair = Pair::start()?;
    let _server = pair.server.serve("serve banner blue")?;
    let good = pair.server.yaml()?;
    pair.mesh.write("pod-default-server", "kind: [")?;
    problem(&pair, &["pod-default-server.yaml"])?;
    ensure!(
        Banner::of(
            &pair
                .client
                .client(&format!("connect {}", pair.server.v4(8080)))?
        )?
        .name
            == "blue",
        "while broken"
    );
    pair.mesh.write("pod-default-server", &good)?;
    until(
        "no problem is left",
        patience(30),
        || {
            Ok(pair.a.cli("status")?["config"]["problems"]
                .as_array()
                .is_some_and(Vec::is_empty)
                .then_some(()))
        },
        String::new,
    )
}
