//! What a Service says of the choice among its endpoints, as kube-proxy means it.

use std::time::Duration;

use super::super::World;
use super::resolve::resolve;
use super::{built, complaints, pod};

/// A Service with these lines in its spec, and a slice with these endpoints.
fn world(spec: &str, endpoints: &[&str]) -> World {
    let yaml = format!(
        "{}{}{}",
        service("api", spec),
        slice("api", endpoints),
        node("node-a", "zone-1")
    );
    let built = built(&yaml);
    assert_eq!(built.problems, [], "{yaml}");
    built.world
}

fn service(name: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{clusterIP: 10.96.0.10, ports: [{{port: 80}}], {spec}}}
"
    )
}

fn slice(name: &str, endpoints: &[&str]) -> String {
    let endpoints = endpoints.join(", ");
    format!(
        "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints: [{endpoints}]
"
    )
}

fn node(name: &str, zone: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Node
metadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: {zone}}}}}
"
    )
}

/// An endpoint at 192.0.2.`n` with these fields beside its address.
fn at(n: u8, fields: &str) -> String {
    format!("{{addresses: [192.0.2.{n}], {fields}}}")
}

fn ask(world: &World, destination: &str) -> String {
    let answer = resolve(world, destination);
    answer.replace("192.0.2.", ".").replace(":8080=-", "")
}

/// What the cluster IP leads to with `spec` and `endpoints`.
fn choice(spec: &str, endpoints: &[String]) -> String {
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    ask(&world(spec, &endpoints), "10.96.0.10:80")
}

const READY: &str = "conditions: {ready: true, serving: true, terminating: false}";
const UNREADY: &str = "conditions: {ready: false, serving: false, terminating: false}";
const LEAVING: &str = "conditions: {ready: false, serving: true, terminating: true}";
const GONE: &str = "conditions: {ready: false, serving: false, terminating: true}";

#[test]
fn who_is_ready_and_who_stands_in() {
    for (spec, endpoints, expected) in [
        (
            "",
            vec![at(1, READY), at(2, UNREADY), at(3, LEAVING)],
            "api: .1",
        ),
        // A condition that is not given is the good one.
        ("", vec![at(1, ""), at(2, "conditions: {}")], "api: .1 .2"),
        // Without a ready one, those that serve while they terminate.
        (
            "",
            vec![at(1, UNREADY), at(2, LEAVING), at(3, GONE)],
            "api: .2",
        ),
        (
            "",
            vec![at(1, "conditions: {ready: false, terminating: true}")],
            "api: .1",
        ),
        (
            "",
            vec![at(1, "conditions: {ready: false}"), at(2, GONE)],
            "api: none ready",
        ),
        ("", vec![], "api: none ready"),
        (
            "publishNotReadyAddresses: true",
            vec![at(1, READY), at(2, UNREADY), at(3, LEAVING), at(4, GONE)],
            "api: .1 .2 .3 .4",
        ),
    ] {
        assert_eq!(choice(spec, &endpoints), expected, "{spec} {endpoints:?}");
    }
}

#[test]
fn internal_traffic_stays_on_the_node() {
    let local = "internalTrafficPolicy: Local";
    let on = |n, node: &str, state: &str| at(n, &format!("nodeName: {node}, {state}"));
    for (spec, endpoints, expected) in [
        (
            local,
            vec![on(1, "node-a", READY), on(2, "node-b", READY), at(3, READY)],
            "api: .1",
        ),
        (local, vec![on(2, "node-b", READY)], "api: none local"),
        (
            local,
            vec![on(1, "node-a", UNREADY), on(2, "node-b", READY)],
            "api: none local",
        ),
        (
            local,
            vec![on(1, "node-a", LEAVING), on(2, "node-b", READY)],
            "api: .1",
        ),
        (local, vec![on(2, "node-b", UNREADY)], "api: none ready"),
        (
            "internalTrafficPolicy: Cluster",
            vec![on(1, "node-a", READY), on(2, "node-b", READY)],
            "api: .1 .2",
        ),
    ] {
        assert_eq!(choice(spec, &endpoints), expected, "{spec} {endpoints:?}");
    }
}

#[test]
fn a_slice_that_leaves_out_the_node_takes_the_pods() {
    let yaml = service("api", "internalTrafficPolicy: Local")
        + &slice(
            "api",
            &["{addresses: [10.1.0.3]}", "{addresses: [10.1.0.4]}"],
        )
        + &pod("here", "10.1.0.3")
        + &pod("there", "10.1.0.4").replace("node-a", "node-b");
    assert_eq!(
        resolve(&built(&yaml).world, "10.96.0.10:80"),
        "api: 10.1.0.3:8080=here"
    );
}

#[test]
fn hints_count_while_every_ready_endpoint_has_one() {
    let zone = |n, zone: &str, state: &str| {
        at(
            n,
            &format!("hints: {{forZones: [{{name: {zone}}}]}}, {state}"),
        )
    };
    let node = |n, node: &str| {
        at(
            n,
            &format!(
                "hints: {{forNodes: [{{name: {node}}}], forZones: [{{name: zone-1}}]}}, {READY}"
            ),
        )
    };
    for (endpoints, expected) in [
        (
            vec![zone(1, "zone-1", READY), zone(2, "zone-2", READY)],
            "api: .1",
        ),
        // One without a hint: all.
        (
            vec![
                zone(1, "zone-1", READY),
                zone(2, "zone-2", READY),
                at(3, READY),
            ],
            "api: .1 .2 .3",
        ),
        // One that is not ready is not asked.
        (
            vec![
                zone(1, "zone-1", READY),
                zone(2, "zone-2", READY),
                at(3, UNREADY),
            ],
            "api: .1",
        ),
        // None for this zone that is ready: all.
        (
            vec![
                zone(1, "zone-1", UNREADY),
                zone(2, "zone-2", READY),
                zone(3, "zone-3", READY),
            ],
            "api: .2 .3",
        ),
        (vec![node(1, "node-a"), node(2, "node-b")], "api: .1"),
        // None for this node: the zone.
        (
            vec![
                node(1, "node-b"),
                node(2, "node-c"),
                zone(3, "zone-2", READY),
            ],
            "api: .1 .2",
        ),
        (
            vec![at(1, "hints: {forZones: []}"), zone(2, "zone-1", READY)],
            "api: .1 .2",
        ),
    ] {
        assert_eq!(choice("", &endpoints), expected, "{endpoints:?}");
    }
}

#[test]
fn without_a_zone_of_its_own_a_node_takes_no_hints() {
    let hinted = slice(
        "api",
        &[
            "{addresses: [192.0.2.1], hints: {forZones: [{name: zone-1}]}}",
            "{addresses: [192.0.2.2], hints: {forZones: [{name: zone-2}]}}",
        ],
    );
    for (node, expected) in [
        (String::new(), "api: .1 .2"),
        (node("node-b", "zone-1"), "api: .1 .2"),
        (node("node-a", "\"\""), "api: .1 .2"),
        (node("node-a", "zone-2"), "api: .2"),
    ] {
        let world = built(&(service("api", "") + &hinted + &node)).world;
        assert_eq!(ask(&world, "10.96.0.10:80"), expected, "{node}");
    }
}

/// Hints name zones, and do not hold back what is on this node.
#[test]
fn the_local_policy_goes_before_hints() {
    let endpoints = [
        at(1, "nodeName: node-a, hints: {forZones: [{name: zone-2}]}"),
        at(2, "nodeName: node-b, hints: {forZones: [{name: zone-1}]}"),
    ];
    assert_eq!(
        choice("internalTrafficPolicy: Local", &endpoints),
        "api: .1"
    );
}

#[test]
fn ports_go_by_name_and_each_slice_has_its_numbers() {
    let slice = |name: &str, ports: &str, n: u8| {
        format!(
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: api}}}}
addressType: IPv4
ports: {ports}
endpoints: [{{addresses: [192.0.2.{n}]}}]
"
        )
    };
    let yaml = "---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec:
  clusterIP: 10.96.0.10
  ports:
    - {name: http, port: 80, targetPort: web}
    - {name: admin, port: 9000, targetPort: 1}
    - {name: sctp, port: 90, protocol: SCTP}
    - {name: udp, port: 80, protocol: UDP}
"
    .to_owned()
        + &slice(
            "one",
            "[{name: http, port: 8080}, {name: admin, port: 1}]",
            1,
        )
        + &slice(
            "two",
            "[{name: admin, port: 2}, {name: http, port: 8082}]",
            2,
        )
        + &slice("no-number", "[{name: http, port: null}]", 3)
        + &slice("null", "null", 4)
        + &slice("sctp", "[{name: sctp, port: 90, protocol: SCTP}]", 5)
        + &slice("udp", "[{name: http, port: 80, protocol: UDP}]", 6);
    let world = built(&yaml).world;
    for (destination, expected) in [
        ("10.96.0.10:80", "api: .1 .2:8082=-"),
        ("10.96.0.10:9000", "api: .1:1=- .2:2=-"),
        ("10.96.0.10:90", "api: no such port"),
    ] {
        assert_eq!(ask(&world, destination), expected, "{destination}");
    }
}

/// While an endpoint moves between slices, it may be in both, and not alike.
#[test]
fn of_two_descriptions_of_an_endpoint_the_better_counts() {
    let unready = at(1, UNREADY);
    let ready = at(1, READY);
    for (first, second) in [(&unready, &ready), (&ready, &unready)] {
        let yaml = service("api", "")
            + &slice("api", &[first])
            + &slice("api", &[second]).replace("api-1", "api-2");
        assert_eq!(ask(&built(&yaml).world, "10.96.0.10:80"), "api: .1");
    }
}

#[test]
fn affinity_has_a_time() {
    let client = |seconds: &str| {
        format!(
            "sessionAffinity: ClientIP, sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {seconds}}}}}"
        )
    };
    for (spec, expected, complaint) in [
        (String::new(), None, false),
        ("sessionAffinity: None".to_owned(), None, false),
        ("sessionAffinity: ClientIP".to_owned(), Some(10_800), false),
        (client("60"), Some(60), false),
        (client("null"), Some(10_800), false),
        (client("86400"), Some(86_400), false),
        (client("86401"), Some(86_400), true),
        (client("0"), Some(1), true),
        (client("-5"), Some(1), true),
    ] {
        let built = built(&service("api", &spec));
        let service = built.world.services().next().unwrap();
        assert_eq!(
            service.affinity,
            expected.map(Duration::from_secs),
            "{spec}"
        );
        assert_eq!(
            !built.problems.is_empty(),
            complaint,
            "{:?}",
            built.problems
        );
    }
}

const INGRESS: &str = "status: {loadBalancer: {ingress: [{ip: 203.0.113.1}, {ip: 203.0.113.2, ipMode: VIP}, {ip: 203.0.113.3, ipMode: Proxy}, {hostname: lb.example}]}}\n";

#[test]
fn external_addresses_are_the_services_at_its_ports() {
    let yaml = service(
        "api",
        "externalIPs: [198.51.100.1], internalTrafficPolicy: Local",
    ) + INGRESS
        + &slice("api", &["{addresses: [192.0.2.1], nodeName: node-b}"]);
    let built = built(&yaml);
    assert_eq!(built.problems, []);
    for (destination, expected) in [
        ("10.96.0.10:80", "api: none local"),
        // What the policy says of internal traffic is not said of these.
        ("198.51.100.1:80", "api: .1"),
        ("203.0.113.1:80", "api: .1"),
        ("203.0.113.2:80", "api: .1"),
        // The load balancer itself is to see it.
        ("203.0.113.3:80", "outside"),
        // The address may be a node's.
        ("203.0.113.1:22", "outside"),
    ] {
        assert_eq!(ask(&built.world, destination), expected, "{destination}");
    }
}

#[test]
fn an_external_address_takes_nothing_from_a_pod_or_a_cluster_ip() {
    let other = service("other", "externalIPs: [10.1.0.3, 10.96.0.10]")
        .replace("clusterIP: 10.96.0.10", "clusterIP: 10.96.0.11");
    let yaml = service("api", "") + &other + &pod("web", "10.1.0.3");
    let built = built(&yaml);
    assert_eq!(resolve(&built.world, "10.1.0.3:80"), "workload shop/web");
    assert_eq!(resolve(&built.world, "10.96.0.10:80"), "api: none ready");
    assert_eq!(
        complaints(&built),
        [
            "Service shop/other: spec.externalIPs: the external address 10.1.0.3 is the address of Pod shop/web, and stays so",
            "Service shop/other: spec.externalIPs: the external address 10.96.0.10 is the cluster IP of Service shop/api, and stays so",
        ]
    );
}

#[test]
fn services_may_share_an_external_address_by_port() {
    let numbered = |name: &str, ip: &str, port: u16| {
        service(name, "externalIPs: [198.51.100.1]")
            .replace("10.96.0.10", ip)
            .replace("port: 80", &format!("port: {port}"))
    };
    let yaml = numbered("one", "10.96.0.1", 80)
        + &numbered("two", "10.96.0.2", 81)
        + &numbered("three", "10.96.0.3", 81);
    let built = built(&yaml);
    for (destination, expected) in [
        ("198.51.100.1:80", "one: none ready"),
        ("198.51.100.1:81", "disputed"),
        ("198.51.100.1:82", "outside"),
    ] {
        assert_eq!(
            resolve(&built.world, destination),
            expected,
            "{destination}"
        );
    }
    assert_eq!(built.problems.len(), 1, "{:?}", built.problems);
}

/// Neither has an address that is the mesh's: DNS answers with pods' or with others.
#[test]
fn headless_services_and_external_names_have_no_address() {
    let headless = service("api", "externalIPs: [198.51.100.1]")
        .replace("clusterIP: 10.96.0.10", "clusterIP: None");
    let named = "type: ExternalName, externalName: db.example, externalIPs: [198.51.100.1]";
    for service in [headless, service("api", named)] {
        let yaml = service + &slice("api", &["{addresses: [10.1.0.3]}"]) + &pod("db-0", "10.1.0.3");
        let world = built(&yaml).world;
        for destination in ["10.96.0.10:80", "198.51.100.1:80"] {
            assert_eq!(resolve(&world, destination), "outside", "{yaml}");
        }
        // A StatefulSet's pod is asked for by its own address.
        assert_eq!(resolve(&world, "10.1.0.3:5432"), "workload shop/db-0");
    }
}
