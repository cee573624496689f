//! Bad configuration: one clear problem for each mistake, all at once, and the rest goes on.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Mesh, Mtls, Node, Pod, PodSpec};
use isthmus_tests::traffic::Talk;
use isthmus_tests::wait::{patience, until};

use crate::asked::{Crossing, crossing};
use crate::pair::{Pair, ensure_reset};

/// A mistake: the file's name, and words of its one problem: object, field, what is wrong.
type Mistake = (&'static str, [&'static str; 3]);

const MISTAKES: [Mistake; 10] = [
    ("syntax", ["line 3", "column", ""]),
    ("kind-of-ours", ["MeshKonfig", "kind", ""]),
    (
        "settings",
        ["MeshConfig", "spec.trustDomian", "trustDomain"],
    ),
    ("key", ["Pod default/key", "isthmus.dev/netsn", ""]),
    (
        "no-netns",
        ["Pod default/no-netns", "isthmus.dev/netns", "nowhere"],
    ),
    (
        "no-cgroup",
        ["Pod default/no-cgroup", "isthmus.dev/cgroup", "nowhere"],
    ),
    (
        "no-annotation",
        ["Pod default/no-annotation", "isthmus.dev/netns", "missing"],
    ),
    (
        "address",
        ["Pod default/address", "status.podIPs[0].ip", "10.7.0.300"],
    ),
    (
        "policy",
        ["AuthorizationPolicy elsewhere/deny", "rulez", "rules"],
    ),
    (
        "twin",
        [
            "Namespace default",
            "metadata.name",
            "namespace-default.yaml",
        ],
    ),
];

/// Ten mistakes in ten files beside three that are right: each has exactly one problem, which
/// names file, object and field; `problems`, `status` and the log tell the same; nothing else
/// is reported, and what is right works.
#[test]
fn every_mistake_is_named_once_and_the_rest_goes_on() -> Result<()> {
    let pair = Pair::prepare()?;
    let spare = pair.a.pod_with(PodSpec::new("spare").outside())?;
    for (file, text) in mistakes(&spare)? {
        pair.mesh.write(file, &text)?;
    }
    pair.start_agents()?;
    let problems = settled(&pair.a, MISTAKES.len())?;
    for (file, words) in MISTAKES {
        let name = pair.mesh.config().join(format!("{file}.yaml"));
        let of_file = format!("{}: ", name.display());
        let lines: Vec<_> = problems
            .iter()
            .filter(|line| line.starts_with(&of_file))
            .collect();
        ensure!(lines.len() == 1, "{file} has {lines:#?} of {problems:#?}");
        for word in words {
            ensure!(lines[0].contains(word), "{word:?} is not in {}", lines[0]);
        }
        ensure!(lines[0].contains("; "), "no cure in {}", lines[0]);
        let logged = pair.a.log()?;
        ensure!(
            logged
                .iter()
                .any(|line| line["target"] == "config" && line["problem"] == lines[0].as_str()),
            "the log lacks {}",
            lines[0]
        );
    }
    ensure!(
        pair.a.metric("isthmus_config_problems", &[])? == problems.len() as f64,
        "the metric disagrees"
    );
    let text = pair.a.cli_run("status")?.success()?;
    let table = pair.a.cli_run("problems")?.success()?;
    ensure!(
        problems
            .iter()
            .all(|line| text.contains(line) && table.contains(line)),
        "for people:\n{text}\n{table}"
    );
    let _echo = pair.server.serve("serve echo")?;
    ensure!(crossing(&pair.mesh, &pair.client, &pair.server)? == Crossing::Encrypted);

    for (file, _) in MISTAKES {
        pair.mesh.remove(file)?;
    }
    settled(&pair.a, 0)?;
    Ok(())
}

fn mistakes(spare: &Pod) -> Result<Vec<(&'static str, String)>> {
    let yaml = spare.yaml()?;
    let netns = spare.netns().path().display().to_string();
    let cgroup = spare.cgroup().context("a cgroup")?.path();
    let cgroup = cgroup.display().to_string();
    // A pod that would be right but for its one mistake, with a name and an address of its own.
    let pod = |name: &str, n: u8| {
        let yaml = yaml.replace(": spare", &format!(": {name}"));
        let yaml = yaml.replace("\"spare\"", &format!("{name:?}"));
        let yaml = yaml.replace(&netns, &format!("{netns}-{n}"));
        let yaml = yaml.replace(&cgroup, &format!("{cgroup}-{n}"));
        let fresh = |old: &IpAddr| match old {
            IpAddr::V4(_) => format!("10.7.99.{n}"),
            IpAddr::V6(_) => format!("fd07::99{n:02x}"),
        };
        let addresses = spare.addresses().iter();
        addresses.fold(yaml, |yaml, old| {
            yaml.replace(&format!("\"{old}\""), &format!("\"{}\"", fresh(old)))
        })
    };
    Ok(vec![
        ("syntax", "apiVersion: v1\nkind: Pod\nmetadata: {name: [unclosed\n".to_owned()),
        (
            "kind-of-ours",
            "apiVersion: isthmus.dev/v1alpha1\nkind: MeshKonfig\nmetadata: {name: mesh}\n"
                .to_owned(),
        ),
        (
            "settings",
            "apiVersion: isthmus.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec: {trustDomian: cluster.local}\n"
                .to_owned(),
        ),
        (
            "key",
            // Of another node, so that nothing else is wrong with it.
            pod("key", 1)
                .replace("nodeName: a", "nodeName: b")
                .replace("isthmus.dev/netns", "isthmus.dev/netsn"),
        ),
        (
            "no-netns",
            pod("no-netns", 2)
                .replace(&format!("{netns}-2"), "/run/netns/nowhere")
                .replace(&format!("{cgroup}-2"), &cgroup),
        ),
        (
            "no-cgroup",
            pod("no-cgroup", 3)
                .replace(&format!("{netns}-3"), &netns)
                .replace(&format!("{cgroup}-3"), &format!("{cgroup}-nowhere")),
        ),
        (
            "no-annotation",
            pod("no-annotation", 4).replace(&format!("    isthmus.dev/netns: {netns}-4\n"), ""),
        ),
        ("address", pod("address", 5).replace("10.7.99.5", "10.7.0.300")),
        // One in the pods' own namespace would refuse all that it may be about.
        (
            "policy",
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny, namespace: elsewhere}\nspec: {rulez: []}\n"
                .to_owned(),
        ),
        ("twin", "apiVersion: v1\nkind: Namespace\nmetadata: {name: default}\n".to_owned()),
    ])
}

/// Waits until a node tells of this many problems.
fn settled(node: &Node, count: usize) -> Result<Vec<String>> {
    let mut last = Vec::new();
    until(
        &format!("{} tells of {count} problems", node.name()),
        patience(30),
        || {
            last = serde_json::from_value(node.cli("problems")?)?;
            Ok((last.len() == count).then(|| last.clone()))
        },
        String::new,
    )
    .with_context(|| format!("{last:#?}"))
}

/// Two pods with one address: one problem that names both files; whoever was enrolled with it
/// stays so, with its connections; new ones to it are refused rather than sent to either.
#[test]
fn two_pods_with_one_address_share_nothing() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.server.serve("serve echo")?;
    let talk = Talk::open(&pair.client, pair.server.v4(8080))?;
    let thief = pair.b.pod_with(PodSpec::new("thief").outside())?;
    // It claims the address; it does not have it, or the network itself would be in dispute.
    let claim = thief.yaml()?.replace(
        &format!("{:?}", thief.v4(0).ip().to_string()),
        &format!("{:?}", pair.server.v4(0).ip().to_string()),
    );
    pair.mesh.write("thief", &claim)?;
    for node in [&pair.a, &pair.b] {
        let problems = settled(node, 1)?;
        for word in [
            "pod-default-server.yaml",
            "thief.yaml",
            "podIPs",
            "default/thief",
            "default/server",
        ] {
            ensure!(problems[0].contains(word), "{word} is not in {problems:?}");
        }
    }
    pair.b.wait_state(&thief.uid(), "not-enrolled")?;
    pair.b.wait_enrolled(&pair.server)?;
    talk.ask()?;
    let seen = pair
        .client
        .client(&format!("connect {} --send x", pair.server.v4(8080)))?;
    ensure_reset(&seen)?;
    pair.a.wait_access("the dispute", |line| {
        line["reason"] == "DESTINATION_UNKNOWN" && line["dst"] == pair.server.v4(8080).to_string()
    })?;
    // Its other address is not in dispute.
    let seen = pair
        .client
        .client(&format!("connect {} --send x", pair.server.v6(8080)))?;
    ensure!(seen["read"] == "x\n", "{seen}");

    pair.mesh.remove("thief")?;
    settled(&pair.a, 0)?;
    let seen = pair
        .client
        .client(&format!("connect {} --send x", pair.server.v4(8080)))?;
    ensure!(seen["read"] == "x\n", "{seen}");
    talk.close()
}

/// A file that breaks keeps its last good content in force, until it is mended; what changed
/// in other files meanwhile takes effect.
#[test]
fn a_broken_file_keeps_its_last_good_content() -> Result<()> {
    let mut pair = Pair::start()?;
    let _echo = pair.server.serve("serve echo")?;
    for broken in ["kind: [", "\u{0}\u{1}", "- just\n- a list\n"] {
        pair.mesh.write("pod-default-server", broken)?;
        let problems = settled(&pair.a, 1)?;
        ensure!(
            problems[0].contains("pod-default-server.yaml"),
            "{problems:?}"
        );
        settled(&pair.b, 1)?;
        pair.b.wait_enrolled(&pair.server)?;
        let late = pair.a.pod(&format!("late-{}", broken.len()))?;
        pair.a.wait_enrolled(&late)?;
        ensure!(crossing(&pair.mesh, &late, &pair.server)? == Crossing::Encrypted);
        pair.server.configure()?;
        settled(&pair.a, 0)?;
        settled(&pair.b, 0)?;
    }
    ensure!(crossing(&pair.mesh, &pair.client, &pair.server)? == Crossing::Encrypted);
    Ok(())
}

/// A mode that is none is a problem, and STRICT stays in force.
#[test]
fn a_broken_mode_does_not_loosen_the_mesh() -> Result<()> {
    let mesh = Mesh::new()?;
    mesh.mtls(Mtls::Strict)?;
    let node = mesh.node("a")?;
    node.start()?;
    let wrong = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: istio-system}\nspec: {mtls: {mode: STRIKT}}\n";
    mesh.write("peer-authentication", wrong)?;
    let problems = settled(&node, 1)?;
    ensure!(
        problems[0].contains("spec.mtls.mode") && problems[0].contains("STRIKT"),
        "{problems:?}"
    );
    let status = node.cli("status")?;
    ensure!(status["inbound_mode"] == "STRICT", "{status}");
    mesh.mtls(Mtls::Permissive)?;
    settled(&node, 0)?;
    let status = node.cli("status")?;
    ensure!(status["inbound_mode"] == "PERMISSIVE", "{status}");
    Ok(())
}
