//! Pods of other meshes, and such that prove DNS names.

use super::super::{Resolution, build};
use super::trust::{entry, root, trusting};
use super::{built, complaints, objects, rebuilt};
use crate::addr::OriginalDst;
use crate::identity::fixtures::TestCa;

/// A meshed pod of `node` with one annotation more.
fn pod(name: &str, node: &str, ip: &str, annotation: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: shop
  labels: {{isthmus.dev/mesh: enabled}}
  annotations:
    isthmus.dev/netns: /run/netns/{name}
    isthmus.dev/cgroup: /cg/{name}
    {annotation}
spec: {{nodeName: {node}, serviceAccountName: web}}
status: {{podIP: {ip}}}
"
    )
}

#[test]
fn a_pod_of_another_mesh_has_its_identity_there() {
    let ca = TestCa::new("other.example");
    let config = trusting(&[entry("[other.example]", &root(&ca), None)]);
    let far = pod(
        "far",
        "elsewhere",
        "10.0.0.9",
        "isthmus.dev/trust-domain: other.example",
    );
    let good = built(&(config.clone() + &far));
    assert_eq!(complaints(&good), [""; 0]);
    assert!(good.complete);
    let identity = "spiffe://other.example/ns/shop/sa/web";
    assert_eq!(
        good.world
            .workload("shop/far")
            .unwrap()
            .identity
            .to_string(),
        identity
    );

    // Without a bundle it keeps the identity, so that it is refused and not mistaken.
    let untrusted = built(&far);
    let workload = untrusted.world.workload("shop/far").unwrap();
    assert_eq!(workload.identity.to_string(), identity);
    let [problem] = &complaints(&untrusted)[..] else {
        panic!("{:?}", untrusted.problems)
    };
    assert!(
        problem.contains("nothing vouches for trust domain other.example"),
        "{problem}"
    );

    // One that cannot be read leaves the pod as it was, or without an identity.
    let broken = config + &far.replace("other.example\n", "Other_Example\n");
    let after = rebuilt(&good.world, &broken);
    assert_eq!(
        after
            .world
            .workload("shop/far")
            .unwrap()
            .identity
            .to_string(),
        identity
    );
    let alone = built(&broken);
    assert!(!alone.complete && alone.world.workload("shop/far").is_none());
    let there = OriginalDst("10.0.0.9:80".parse().unwrap());
    assert!(matches!(alone.world.resolve(there), Resolution::Disputed));
}

#[test]
fn a_pod_of_this_node_cannot_be_of_another_mesh() {
    let ca = TestCa::new("other.example");
    let config = trusting(&[entry("[other.example]", &root(&ca), None)]);
    let near = pod(
        "near",
        "node-a",
        "10.0.0.8",
        "isthmus.dev/trust-domain: other.example",
    );
    let built = built(&(config.clone() + &near));
    let [problem] = &complaints(&built)[..] else {
        panic!("{:?}", built.problems)
    };
    assert!(
        problem.contains("annotations[isthmus.dev/trust-domain]"),
        "{problem}"
    );
    assert!(built.world.workload("shop/near").unwrap().local.is_none());
    assert!(!built.complete);
    // Where the same pod is another node's, nothing is wrong with it.
    let there = build([&objects("m.yaml", &(config + &near))], "node-b", None);
    assert_eq!(complaints(&there), [""; 0]);
}

#[test]
fn dns_names_by_identity() {
    let names = |name, ip, names: &str| {
        let annotation = format!("isthmus.dev/tls-names: {names:?}");
        pod(name, "elsewhere", ip, &annotation)
    };
    let built = built(
        &(names("a", "10.0.0.1", "web.example.com, b.local")
            + &names("b", "10.0.0.2", "web.example.com\nc.local")),
    );
    assert_eq!(complaints(&built), [""; 0]);
    let web = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
    let expected = ["b.local", "c.local", "web.example.com"].map(str::to_owned);
    assert_eq!(built.world.name_proofs(), [(web, expected.to_vec())]);
}

#[test]
fn what_is_no_dns_name_is_said_and_left_out() {
    let long = format!("{}.example", "a".repeat(64));
    for (names, message) in [
        ("*.example.com", "a wildcard"),
        ("Web.example.com", "lower-case"),
        ("web..com", "labels of 1 to 63"),
        ("-web.com", "labels of 1 to 63"),
        ("web.com.", "labels of 1 to 63"),
        ("10.0.0.1", "it is an address"),
        ("web_1", "labels of 1 to 63"),
        (long.as_str(), "labels of 1 to 63"),
    ] {
        let annotation = format!("isthmus.dev/tls-names: \"{names}, good.example\"");
        let built = built(&pod("a", "elsewhere", "10.0.0.1", &annotation));
        let [problem] = &complaints(&built)[..] else {
            panic!("{names}: {:?}", built.problems)
        };
        assert!(problem.contains(message), "{problem}");
        let workload = built.world.workload("shop/a").unwrap();
        assert_eq!(workload.tls_names[..], ["good.example".into()], "{names}");
    }
}
