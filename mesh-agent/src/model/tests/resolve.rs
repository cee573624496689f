//! Where connections go.

use super::super::{Resolution, World};
use super::{SHOP, built, pod};
use crate::addr::OriginalDst;

pub(super) fn resolve(world: &World, destination: &str) -> String {
    let endpoint = |it: &super::super::Endpoint| {
        let workload = it.workload.as_ref().map_or("-", |w| &w.name);
        format!("{}={workload}", it.addr)
    };
    match world.resolve(OriginalDst(destination.parse().unwrap())) {
        Resolution::Workload(workload) => format!("workload {}", workload.uid),
        Resolution::Service { service, endpoints } => {
            let endpoints: Vec<String> = endpoints.iter().map(endpoint).collect();
            format!("{}: {}", service.name, endpoints.join(" "))
        }
        Resolution::NoSuchPort(service) => format!("{}: no such port", service.name),
        Resolution::NoReadyEndpoint(service) => format!("{}: none ready", service.name),
        Resolution::NoLocalEndpoint(service) => format!("{}: none local", service.name),
        Resolution::Disputed => "disputed".to_owned(),
        Resolution::Outside => "outside".to_owned(),
    }
}

#[test]
fn every_destination_of_the_shop() {
    let built = built(SHOP);
    assert_eq!(built.problems, []);
    for (destination, expected) in [
        ("10.1.0.3:8080", "workload shop/api-a"),
        ("10.1.0.3:1", "workload shop/api-a"),
        ("10.2.0.3:8080", "workload shop/api-b"),
        ("[fd00:2::3]:8080", "workload shop/api-b"),
        ("[::ffff:10.2.0.3]:8080", "workload shop/api-b"),
        ("10.1.0.9:80", "workload shop/legacy"),
        // By name, whatever `targetPort` calls the container's port.
        (
            "10.96.0.10:80",
            "api: 10.1.0.3:8080=api-a 10.2.0.3:8080=api-b 192.0.2.7:8080=-",
        ),
        (
            "[::ffff:10.96.0.10]:80",
            "api: 10.1.0.3:8080=api-a 10.2.0.3:8080=api-b 192.0.2.7:8080=-",
        ),
        ("[fd00:96::10]:80", "api: [fd00:2::3]:8086=api-b"),
        ("10.96.0.10:81", "api: none ready"),
        ("10.96.0.10:53", "api: no such port"),
        ("10.96.0.10:8080", "api: no such port"),
        ("10.96.0.11:80", "eager: 10.1.0.9:8080=legacy"),
        ("192.0.2.7:8080", "outside"),
        ("[2001:db8::1]:443", "outside"),
    ] {
        assert_eq!(
            resolve(&built.world, destination),
            expected,
            "{destination}"
        );
    }
}

#[test]
fn workloads_are_found_by_address_in_any_form() {
    let built = built(SHOP);
    let by_ip = |ip: &str| built.world.workload_by_ip(ip.parse().unwrap());
    assert_eq!(&*by_ip("::ffff:10.1.0.2").unwrap().uid, "shop/web");
    assert_eq!(&*by_ip("fd00:1::2").unwrap().uid, "shop/web");
    assert!(by_ip("10.96.0.10").is_none());
    assert!(by_ip("192.0.2.7").is_none());
}

#[test]
fn an_endpoint_in_two_slices_counts_once() {
    let slice = |name: &str| {
        format!(
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: api}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints: [{{addresses: [10.1.0.3]}}]
"
        )
    };
    let built = built(&format!(
        "apiVersion: v1
kind: Service
metadata: {{name: api, namespace: shop}}
spec: {{clusterIP: 10.96.0.10, ports: [{{name: http, port: 80}}]}}
{}{}",
        slice("old"),
        slice("new")
    ));
    assert_eq!(
        resolve(&built.world, "10.96.0.10:80"),
        "api: 10.1.0.3:8080=-"
    );
}

#[test]
fn an_address_of_two_pods_is_nobodys_also_behind_a_service() {
    let built = built(&format!(
        "apiVersion: v1
kind: Service
metadata: {{name: api, namespace: shop}}
spec: {{clusterIP: 10.96.0.10, ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: api, namespace: shop, labels: {{kubernetes.io/service-name: api}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints: [{{addresses: [10.1.0.3]}}, {{addresses: [10.1.0.4]}}]
{}{}{}",
        pod("one", "10.1.0.3"),
        pod("two", "10.1.0.3"),
        pod("three", "10.1.0.4")
    ));
    assert_eq!(resolve(&built.world, "10.1.0.3:80"), "disputed");
    assert!(
        built
            .world
            .workload_by_ip("10.1.0.3".parse().unwrap())
            .is_none()
    );
    assert_eq!(
        resolve(&built.world, "10.96.0.10:80"),
        "api: 10.1.0.4:8080=three"
    );
}

#[test]
fn the_address_of_a_pod_that_cannot_be_used_is_not_outside() {
    let broken =
        pod("one", "10.1.0.3").replace("serviceAccountName: default", "serviceAccountName: A_B");
    let built = built(&broken);
    assert_eq!(resolve(&built.world, "10.1.0.3:80"), "disputed");
}

#[test]
fn two_claims_to_a_cluster_ip_leave_it_to_nobody() {
    let service = |name: &str| {
        format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{clusterIP: 10.96.0.10, ports: [{{port: 80}}]}}
"
        )
    };
    let two = built(&(service("one") + &service("two")));
    assert_eq!(resolve(&two.world, "10.96.0.10:80"), "disputed");
    let with_pod = built(&(service("one") + &pod("web", "10.96.0.10")));
    assert_eq!(resolve(&with_pod.world, "10.96.0.10:80"), "disputed");
}
