//! Who is in the mesh, who is enrolled here, and what becomes of a pod that was
//! enrolled and is no longer written as it should be.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use super::super::{LocalPod, Workload, World};
use super::{SHOP, built, pod, pod_with, rebuilt};

fn workload<'a>(world: &'a World, uid: &str) -> &'a Arc<Workload> {
    world
        .workload(uid)
        .unwrap_or_else(|| panic!("no workload {uid}"))
}

fn enrolled(world: &World) -> Vec<&str> {
    let workloads = world.workloads().filter(|it| it.local.is_some());
    workloads.map(|it| &*it.name).collect()
}

#[test]
fn a_pod_becomes_a_workload_in_every_field() {
    let built = built(SHOP);
    assert!(built.complete);
    let web = workload(&built.world, "shop/web");
    assert_eq!(
        web.identity.to_string(),
        "spiffe://cluster.local/ns/shop/sa/web"
    );
    assert_eq!(
        web.addresses,
        ["10.1.0.2", "fd00:1::2"].map(|ip| ip.parse::<IpAddr>().unwrap())
    );
    assert_eq!((&*web.namespace, &*web.name), ("shop", "web"));
    assert_eq!((&*web.service_account, &*web.node), ("web", "node-a"));
    assert_eq!(
        (web.app.as_deref(), web.version.as_deref()),
        (Some("web"), Some("v1"))
    );
    let local = LocalPod {
        netns: "/run/netns/web".into(),
        cgroup: "/sys/fs/cgroup/pods/web".into(),
    };
    assert_eq!(web.local.as_ref(), Some(&local));
    assert_eq!(&*web.origin.file, Path::new("mesh.yaml"));
    assert_eq!(web.origin.document, 2);

    let api = workload(&built.world, "shop/api-a");
    assert_eq!(
        (api.app.as_deref(), api.version.as_deref()),
        (Some("api"), Some("v2"))
    );
    let other_node = workload(&built.world, "shop/api-b");
    assert_eq!(&*other_node.service_account, "default");
    assert!(other_node.meshed && other_node.local.is_none());
}

#[test]
fn labels_decide_who_is_in_the_mesh() {
    for (namespace, pod, extra, expected) in [
        ("", "", "", false),
        ("isthmus.dev/mesh: enabled", "", "", true),
        ("isthmus.dev/mesh: disabled", "", "", false),
        ("istio.io/dataplane-mode: ambient", "", "", true),
        ("istio.io/dataplane-mode: none", "", "", false),
        ("", "isthmus.dev/mesh: enabled", "", true),
        ("", "istio.io/dataplane-mode: ambient", "", true),
        (
            "isthmus.dev/mesh: enabled",
            "isthmus.dev/mesh: disabled",
            "",
            false,
        ),
        (
            "isthmus.dev/mesh: enabled",
            "istio.io/dataplane-mode: none",
            "",
            false,
        ),
        (
            "istio.io/dataplane-mode: ambient",
            "isthmus.dev/mesh: disabled",
            "",
            false,
        ),
        (
            "istio.io/dataplane-mode: ambient",
            "istio.io/dataplane-mode: none",
            "",
            false,
        ),
        (
            "",
            "isthmus.dev/mesh: enabled, istio.io/dataplane-mode: none",
            "",
            true,
        ),
        (
            "isthmus.dev/mesh: disabled, istio.io/dataplane-mode: ambient",
            "",
            "",
            false,
        ),
        ("isthmus.dev/mesh: enabled", "", "hostNetwork: true", false),
    ] {
        let built = built(&format!(
            "apiVersion: v1
kind: Namespace
metadata: {{name: shop, labels: {{{namespace}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: web, namespace: shop, labels: {{{pod}}}}}
spec: {{nodeName: node-b, {extra}}}
status: {{podIP: 10.1.0.2}}
"
        ));
        let case = format!("namespace {namespace:?}, pod {pod:?} {extra}");
        assert_eq!(built.problems, [], "{case}");
        assert_eq!(
            workload(&built.world, "shop/web").meshed,
            expected,
            "{case}"
        );
    }
}

#[test]
fn pods_of_the_hosts_network_share_addresses_and_own_none() {
    let host = |name: &str| {
        pod(name, "192.0.2.1")
            .replace("labels: {isthmus.dev/mesh: enabled}", "labels: {}")
            .replace("spec: {", "spec: {hostNetwork: true, ")
    };
    let built = built(&(host("one") + &host("two")));
    assert_eq!(built.problems, []);
    assert!(workload(&built.world, "shop/one").addresses.is_empty());
    assert!(
        built
            .world
            .workload_by_ip("192.0.2.1".parse().unwrap())
            .is_none()
    );
}

#[test]
fn a_pod_that_has_ended_gives_up_its_address() {
    for ended in [
        "status: {phase: Succeeded, podIP: 10.1.0.2}",
        "status: {phase: Failed, podIP: 10.1.0.2}",
    ] {
        let old = pod("old", "10.1.0.2").replace("status: {podIP: 10.1.0.2}", ended);
        let built = built(&(old + &pod("new", "10.1.0.2")));
        assert_eq!(built.problems, [], "{ended}");
        assert_eq!(enrolled(&built.world), ["new"], "{ended}");
    }
    let deleted = |status: &str| {
        pod("web", "10.1.0.2")
            .replace(
                "  name: web",
                "  name: web\n  deletionTimestamp: 2026-01-01T00:00:00Z",
            )
            .replace("status: {podIP: 10.1.0.2}", status)
    };
    let gone = built(&deleted("status: {}"));
    assert!(gone.world.workload("shop/web").is_none());
    let terminating = built(&deleted("status: {podIP: 10.1.0.2}"));
    assert_eq!(enrolled(&terminating.world), ["web"]);
}

#[test]
fn what_two_pods_claim_enrols_neither() {
    for second in [
        pod("two", "10.1.0.2"),
        pod_with("two", "10.1.0.3", "one", "default"),
        pod("one", "10.1.0.3"),
    ] {
        let built = built(&(pod("one", "10.1.0.2") + &second));
        assert_eq!(enrolled(&built.world), [""; 0], "{second}");
        assert!(!built.complete, "{second}");
    }
}

#[test]
fn whoever_was_enrolled_first_stays_so_in_a_dispute() {
    let first = built(&pod("one", "10.1.0.2"));
    let both = pod("one", "10.1.0.2") + &pod("two", "10.1.0.2");
    let disputed = rebuilt(&first.world, &both);
    assert_eq!(enrolled(&disputed.world), ["one"]);
    assert!(!disputed.complete);
    let still = rebuilt(&disputed.world, &both);
    assert_eq!(enrolled(&still.world), ["one"]);
    let settled = rebuilt(&still.world, &pod("two", "10.1.0.2"));
    assert_eq!(enrolled(&settled.world), ["two"]);
    assert!(settled.complete);
}

#[test]
fn an_enrolled_pod_that_comes_to_claim_anothers_keeps_its_own() {
    let first = built(&(pod("one", "10.1.0.2") + &pod("two", "10.1.0.3")));
    for contested in [
        pod("two", "10.1.0.2"),
        pod_with("two", "10.1.0.3", "one", "default"),
    ] {
        let next = rebuilt(&first.world, &(pod("one", "10.1.0.2") + &contested));
        let [before, after] = [&first.world, &next.world].map(|it| workload(it, "shop/two"));
        assert!(Arc::ptr_eq(before, after), "{contested}");
        assert_eq!(enrolled(&next.world), ["one", "two"], "{contested}");
        assert!(!next.problems.is_empty(), "{contested}");
    }
}

#[test]
fn an_enrolled_pod_that_gets_broken_keeps_its_form() {
    let good = pod("web", "10.1.0.2");
    let first = built(&good);
    for broken in [
        good.replace("isthmus.dev/netns: /run/netns/web, ", ""),
        good.replace("isthmus.dev/cgroup: /cg/web", "isthmus.dev/cgroup: cg/web"),
        good.replace("10.1.0.2", "10.1.0"),
        good.replace(
            "serviceAccountName: default",
            "serviceAccountName: Not_A_Name",
        ),
        good.clone() + &pod("web", "10.1.0.7"),
    ] {
        assert_ne!(broken, good);
        let next = rebuilt(&first.world, &broken);
        assert_eq!(next.problems.len(), 1, "{broken}");
        assert!(next.complete, "{broken}");
        let [before, after] = [&first.world, &next.world].map(|it| workload(it, "shop/web"));
        assert!(Arc::ptr_eq(before, after), "{broken}");
        // Without a past it is not enrolled, and that proves nothing.
        let fresh = built(&broken);
        assert_eq!(enrolled(&fresh.world), [""; 0], "{broken}");
        assert!(!fresh.complete, "{broken}");
    }
}

#[test]
fn a_pod_that_opts_out_is_released_whatever_its_past() {
    let good = pod("web", "10.1.0.2");
    let first = built(&good);
    let next = rebuilt(
        &first.world,
        &good.replace("mesh: enabled", "mesh: disabled"),
    );
    assert_eq!(enrolled(&next.world), [""; 0]);
    assert!(next.complete);
}

#[test]
fn a_broken_pod_of_another_trust_domain_keeps_nothing() {
    let good = pod("web", "10.1.0.2");
    let first = built(&good);
    let next = rebuilt(
        &first.world,
        &format!(
            "{}---
apiVersion: isthmus.dev/v1alpha1
kind: MeshConfig
metadata: {{name: mesh}}
spec: {{trustDomain: other.example}}
",
            good.replace("10.1.0.2", "nonsense")
        ),
    );
    assert!(next.world.workload("shop/web").is_none());
    assert!(!next.complete);
}

#[test]
fn unchanged_workloads_are_the_same_object() {
    let first = built(SHOP);
    let next = rebuilt(&first.world, &SHOP.replace("version: v1}", "version: v2}"));
    for (before, after) in first.world.workloads().zip(next.world.workloads()) {
        let changed = &*before.uid == "shop/web";
        assert_eq!(Arc::ptr_eq(before, after), !changed, "{}", before.uid);
    }
}
