//! Addresses that are of the cluster, whoever has them.

use super::super::{Built, Origin, ServiceCidr, Sourced, World, build};
use super::{NODE, built, complaints, objects, rebuilt};

fn mesh_config(ranges: &str) -> String {
    format!(
        "---
apiVersion: isthmus.dev/v1alpha1
kind: MeshConfig
metadata: {{name: mesh}}
spec: {{clusterRanges: [{ranges}]}}
"
    )
}

fn node(name: &str, ranges: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Node
metadata: {{name: {name}}}
spec: {{podCIDRs: [{ranges}]}}
"
    )
}

fn service(name: &str, ips: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{clusterIPs: [{ips}], ports: [{{port: 80}}]}}
"
    )
}

/// The range of an address, in words; empty if it is in none.
fn range(world: &World, ip: &str) -> String {
    let range = world.cluster_range(ip.parse().unwrap());
    range.map(ToString::to_string).unwrap_or_default()
}

#[test]
fn range_is_of_the_node_that_names_it() {
    let nodes = node("n1", "10.244.1.0/24, 'fd00:1::/64'") + &node("n2", "10.244.2.0/24");
    let world = built(&nodes).world;
    for (ip, expected) in [
        ("10.244.0.255", ""),
        ("10.244.1.0", "10.244.1.0/24 (the pods of Node n1)"),
        ("10.244.1.255", "10.244.1.0/24 (the pods of Node n1)"),
        ("10.244.2.9", "10.244.2.0/24 (the pods of Node n2)"),
        ("::ffff:10.244.2.9", "10.244.2.0/24 (the pods of Node n2)"),
        ("10.244.3.0", ""),
        ("fd00:1::ffff", "fd00:1::/64 (the pods of Node n1)"),
        ("fd00:2::", ""),
        ("192.168.0.1", ""),
    ] {
        assert_eq!(range(&world, ip), expected, "{ip}");
    }
}

#[test]
fn range_of_services_is_their_cidr_or_what_their_addresses_have_in_common() {
    let services = [
        service("a", "10.96.0.1, 'fd96::1'"),
        service("b", "10.96.0.10"),
        service("c", "10.97.3.4, 'fd96::a:1'"),
        service("headless", "None"),
    ];
    let world = built(&services.concat()).world;
    let v4 = "10.96.0.0/15 (the Services' addresses)";
    for (ip, expected) in [
        ("10.96.200.1", v4),
        ("10.97.255.255", v4),
        ("10.98.0.0", ""),
        ("fd96::9:9", "fd96::/108 (the Services' addresses)"),
        ("fd96::f:0:0", ""),
    ] {
        assert_eq!(range(&world, ip), expected, "{ip}");
    }
    // A ServiceCIDR says it, and then nothing is inferred.
    let mut sources = objects("mesh.yaml", &services.concat());
    let object = ServiceCidr {
        name: "kubernetes".into(),
        cidrs: vec!["10.96.0.0/16".to_owned()],
    };
    let origin = Origin::api();
    sources.service_cidrs = vec![Sourced { object, origin }];
    let world = build([&sources], NODE, None).world;
    assert_eq!(
        range(&world, "10.96.9.9"),
        "10.96.0.0/16 (ServiceCIDR kubernetes)"
    );
    assert_eq!(range(&world, "10.97.9.9"), "");
}

#[test]
fn range_in_another_is_found_as_the_other() {
    let nodes =
        node("wide", "10.0.0.0/8") + &node("narrow", "10.1.0.0/16") + &node("far", "11.0.0.0/24");
    let world = built(&nodes).world;
    for (ip, node) in [
        ("10.1.2.3", "wide"),
        ("10.2.0.1", "wide"),
        ("11.0.0.1", "far"),
    ] {
        assert!(
            range(&world, ip).ends_with(&format!("Node {node})")),
            "{ip}"
        );
    }
    assert_eq!(range(&built("").world, "10.1.2.3"), "");
}

#[test]
fn declared_range_goes_before_the_others() {
    let yaml = mesh_config("10.244.0.0/16, 'fd00::/8'") + &node("n1", "10.244.1.0/24");
    let built = built(&yaml);
    assert_eq!(built.problems, []);
    let ip = "10.244.1.9".parse().unwrap();
    assert!(built.world.cluster_range(ip).unwrap().is_declared());
    let declared = "10.244.0.0/16 (spec.clusterRanges of the MeshConfig)";
    assert_eq!(range(&built.world, "10.244.1.9"), declared);
}

fn is_usable(built: &Built) -> bool {
    built.complete && built.problems.is_empty()
}

#[test]
fn declared_range_that_cannot_be_read_is_refused() {
    let good = built(&mesh_config("10.244.0.0/16"));
    assert!(is_usable(&good));
    for (text, message) in [
        ("ten", "is neither an IP address nor a CIDR block"),
        ("10.244.0.0/33", "has more bits than its address"),
        ("10.244.0.0/", "is neither"),
        (
            "10.244.1.0/16",
            "has bits beyond its prefix: 10.244.0.0/16 is meant",
        ),
    ] {
        let yaml = mesh_config(&format!("10.0.0.0/16, {text}"));
        let first = built(&yaml);
        let said = complaints(&first);
        assert_eq!(said.len(), 1, "{said:?}");
        let at = "MeshConfig mesh: spec.clusterRanges[1]: ";
        assert!(
            said[0].starts_with(at) && said[0].contains(message),
            "{said:?}"
        );
        assert!(!first.complete, "{text}: unknown addresses must not go out");

        let later = rebuilt(&good.world, &yaml);
        assert!(later.complete, "{text}");
        assert_eq!(range(&later.world, "10.0.0.9"), "", "all stay as they were");
        assert!(!range(&later.world, "10.244.0.9").is_empty());
        // Until then, nothing good is known.
        assert!(!rebuilt(&first.world, &yaml).complete, "{text}");
    }
}
