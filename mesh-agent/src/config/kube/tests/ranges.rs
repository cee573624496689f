//! The cluster's ranges, and whether what is known of them is current.

use super::super::health::{GRACE, SETTLE};
use super::*;
use crate::config::KubeHealth;
use crate::explain::{Explanation, Query, Scene, would};

const NODES: &str = "/api/v1/nodes";
const SERVICE_CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const NETWORK_POLICIES: &str = "/apis/networking.k8s.io/v1/networkpolicies";

/// The same as the proxy asks, of a connection of the pod `web`.
fn asked(loaded: &Loaded, health: &KubeHealth, to: &str) -> Explanation {
    let stale = health.staleness();
    let scene = Scene {
        world: &loaded.world,
        generation: 1,
        complete: loaded.complete,
        stale: stale.as_ref(),
    };
    would(&scene, &Query::new("shop/web", to, None).unwrap()).unwrap()
}

/// The reason and detail of its own agent's refusal.
fn refusal(it: &Explanation) -> Option<(String, String)> {
    let side = it.ways[0].source.clone().unwrap();
    Some((side.reason?, side.detail))
}

/// A server of a cluster with pods in the mesh.
fn cluster() -> Fake {
    let fake = Fake::new();
    fake.serve("servicecidrs.networking.k8s.io");
    fake.serve("networkpolicies.networking.k8s.io");
    fake.put(
        NAMESPACES,
        namespace("shop", json!({"isthmus.dev/mesh": "enabled"})),
    );
    fake.put(PODS, pod("web", "10.244.1.2"));
    fake.put(
        NODES,
        json!({"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.244.1.0/24",
            "podCIDRs": ["10.244.1.0/24"], "providerID": "x"}}),
    );
    fake.put(
        SERVICE_CIDRS,
        json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}}),
    );
    fake
}

const IN_RANGE: [&str; 2] = ["10.244.1.77:80", "10.96.7.7:80"];
const OUTSIDE: &str = "203.0.113.9:443";

/// The world with all of the cluster's ranges.
async fn with_ranges(source: &mut KubeSource) -> Loaded {
    let loaded = until(source, |it| {
        let known = |ip: &str| it.world.cluster_range(ip.parse().unwrap()).is_some();
        known("10.96.7.7") && known("10.244.1.77")
    });
    loaded.await
}

#[tokio::test(start_paused = true)]
async fn unlisted_address_is_refused_once_the_api_is_disconnected() {
    let fake = cluster();
    let mut source = open(&fake).await;
    let loaded = with_ranges(&mut source).await;
    let health = source.health();
    for to in IN_RANGE {
        assert_eq!(refusal(&asked(&loaded, &health, to)), None, "{to}");
    }
    fake.go_away();
    tokio::time::sleep(GRACE + Duration::from_secs(1)).await;
    for (to, range) in IN_RANGE.into_iter().zip([
        "10.244.1.0/24 (the pods of Node n1)",
        "10.96.0.0/16 (ServiceCIDR kubernetes)",
    ]) {
        let it = asked(&loaded, &health, to);
        let (reason, detail) = refusal(&it).unwrap();
        assert_eq!(reason, "DESTINATION_UNKNOWN");
        assert!(detail.contains(range), "{detail}");
        assert!(
            detail.contains("the Kubernetes API has been disconnected for"),
            "{detail}"
        );
        assert!(it.route.contains(range), "{}", it.route);
    }
    // Pods that are known, and what is outside, are reached as before.
    for to in [OUTSIDE, "10.244.1.2:80"] {
        assert_eq!(refusal(&asked(&loaded, &health, to)), None, "{to}");
    }

    fake.put(PODS, pod("late", "10.244.1.77"));
    fake.forget(PODS);
    fake.come_back();
    let loaded = until(&mut source, |it| names(it).contains(&"late")).await;
    let it = asked(&loaded, &health, "10.244.1.77:80");
    assert_eq!(it.ways[0].transport.as_deref(), Some("mutual_tls"));
    tokio::time::sleep(LONG).await;
    assert_eq!(health.staleness(), None);
    assert_eq!(refusal(&asked(&loaded, &health, "10.244.1.78:80")), None);
}

#[tokio::test(start_paused = true)]
async fn staleness_lasts_until_what_was_missed_is_in_force() {
    let health = KubeHealth::default();
    for kind in ["pods", "services"] {
        health.watched(kind, Some("v1"));
        health.heard(kind);
        health.listed(kind);
    }
    assert_eq!(health.staleness(), None);
    health.failed("pods", "refused".to_owned());
    tokio::time::sleep(GRACE - Duration::from_millis(1)).await;
    assert_eq!(health.staleness(), None, "a moment is nothing");
    tokio::time::sleep(Duration::from_millis(1)).await;
    let stale = health.staleness().unwrap();
    assert_eq!(&*stale.cause, "pods: refused");
    assert_eq!(stale.seconds, GRACE.as_secs());
    // Another kind's failure does not begin it again.
    health.failed("services", "refused".to_owned());
    health.lists("pods");
    health.heard("pods");
    health.heard("services");
    assert_eq!(
        &*health.staleness().unwrap().cause,
        "pods: being listed again"
    );
    health.listed("pods");
    assert!(health.staleness().is_some());
    tokio::time::sleep(SETTLE).await;
    assert_eq!(health.staleness(), None);
    // The next failure begins anew.
    health.failed("pods", "refused".to_owned());
    tokio::time::sleep(GRACE - Duration::from_millis(1)).await;
    assert_eq!(health.staleness(), None);
}

#[tokio::test(start_paused = true)]
async fn staleness_is_of_kinds_that_decide_where_connections_go() {
    let fake = cluster();
    let mut source = open(&fake).await;
    with_ranges(&mut source).await;
    for path in [NETWORK_POLICIES, SERVICE_CIDRS] {
        fake.forbid(path);
    }
    tokio::time::sleep(LONG).await;
    let health = source.health();
    assert!(health.away().is_some());
    assert_eq!(health.staleness(), None);
}

#[tokio::test(start_paused = true)]
async fn network_policy_that_shuts_the_tunnels_port_is_a_warning_and_explained() {
    let fake = cluster();
    let mut web = pod("web", "10.244.1.2");
    web["spec"]["nodeName"] = json!("node-a");
    fake.put(PODS, web);
    fake.put(PODS, pod("db", "10.244.1.3"));
    let only = |port: u16| {
        json!({"metadata": {"name": "only", "namespace": "shop"}, "spec": {
            "podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": port}]}]}})
    };
    fake.put(NETWORK_POLICIES, only(8080));
    let mut source = open(&fake).await;
    let warned = |it: &Loaded| {
        let of = |it: &&crate::model::Problem| it.field == "NetworkPolicy shop/only";
        it.problems.iter().filter(of).count()
    };
    let loaded = until(&mut source, |it| warned(it) > 0).await;
    assert_eq!(
        warned(&loaded),
        1,
        "of this node's pod alone: {:?}",
        loaded.problems
    );
    let it = asked(&loaded, &source.health(), "10.244.1.3:8080");
    let [network] = &it.ways[0].network[..] else {
        panic!("{it:#?}")
    };
    assert!(
        network.starts_with("NetworkPolicy shop/only allows no TCP to port 15008 of shop/db"),
        "{network}"
    );
    let outside = asked(&loaded, &source.health(), OUTSIDE);
    assert!(outside.ways[0].network.is_empty());

    fake.put(NETWORK_POLICIES, only(15008));
    let loaded = until(&mut source, |it| warned(it) == 0).await;
    let it = asked(&loaded, &source.health(), "10.244.1.3:8080");
    assert!(it.ways[0].network.is_empty());
}

/// The name of a container's port is read of the API too, whatever the rest of the pod is.
#[tokio::test(start_paused = true)]
async fn network_policy_may_name_the_tunnels_port() {
    let fake = cluster();
    let named = |name: &str, containers: Value| {
        let mut pod = pod(name, "10.244.1.9");
        pod["spec"]["nodeName"] = json!("node-a");
        pod["spec"]["containers"] = containers;
        pod
    };
    let ports = json!([{"name": "hbone", "containerPort": 15008}, {"name": 7}, 7]);
    fake.put(
        PODS,
        named(
            "web",
            json!([7, {"ports": 7}, {"name": "c", "ports": ports}]),
        ),
    );
    fake.put(
        NETWORK_POLICIES,
        json!({"metadata": {"name": "only", "namespace": "shop"}, "spec": {
            "podSelector": {}, "ingress": [{"ports": [{"port": "hbone"}]}]}}),
    );
    fake.put(PODS, named("other", json!({})));
    let mut source = open(&fake).await;
    let warned = |it: &Loaded| -> Vec<String> {
        let of = |it: &&crate::model::Problem| it.field == "NetworkPolicy shop/only";
        let warned = it.problems.iter().filter(of);
        warned.filter_map(|it| it.object.clone()).collect()
    };
    let loaded = until(&mut source, |it| !warned(it).is_empty()).await;
    assert_eq!(warned(&loaded), ["Pod shop/other"]);
}
