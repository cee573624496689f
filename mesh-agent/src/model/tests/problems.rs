//! What is said of objects that can be read and still make no sense: each time
//! the object, the exact field and what is wrong with it.

use super::{built, complaints, objects, pod, pod_with};
use crate::model::build;

fn assert_complaints(yaml: &str, expected: &[&str]) {
    assert_eq!(complaints(&built(yaml)), expected, "{yaml}");
}

#[test]
fn pods() {
    let good = pod("web", "10.1.0.2");
    for (from, to, expected) in [
        (
            "10.1.0.2",
            "10.1.0.256",
            "status.podIP: \"10.1.0.256\" is not an IP address",
        ),
        (
            "10.1.0.2",
            "127.0.0.1",
            "status.podIP: 127.0.0.1 is a loopback address, which belongs to no single host",
        ),
        (
            "podIP: 10.1.0.2",
            "podIPs: [{ip: 10.1.0.2}, {ip: 0.0.0.0}]",
            "status.podIPs[1].ip: 0.0.0.0 is the unspecified address, which belongs to no single host",
        ),
        (
            "isthmus.dev/netns: /run/netns/web, ",
            "",
            "metadata.annotations[isthmus.dev/netns]: the pod is of this node and in the mesh, but this is missing",
        ),
        (
            ", isthmus.dev/cgroup: /cg/web",
            "",
            "metadata.annotations[isthmus.dev/cgroup]: the pod is of this node and in the mesh, but this is missing",
        ),
        (
            "/run/netns/web",
            "web",
            "metadata.annotations[isthmus.dev/netns]: \"web\" is not an absolute path",
        ),
        (
            "serviceAccountName: default",
            "serviceAccountName: Web",
            "spec.serviceAccountName: \"Web\" is not a Kubernetes name: use lower-case letters, digits, '-' or '.'",
        ),
        (
            "mesh: enabled",
            "mesh: enabled, isthmus.dev/mush: enabled",
            "metadata.labels[isthmus.dev/mush]: Isthmus knows no such key here, so it has no effect",
        ),
        (
            "{nodeName",
            "{hostNetwork: true, nodeName",
            "spec.hostNetwork: a pod of the host's network cannot be in the mesh: its connections are the node's",
        ),
        (
            "status: {podIP: 10.1.0.2}",
            "status: {phase: Running}",
            "status.podIPs: the pod has no address, so its connections cannot be taken over",
        ),
    ] {
        let broken = good.replace(from, to);
        assert_ne!(broken, good);
        assert_complaints(&broken, &[&format!("Pod shop/web: {expected}")]);
    }
}

#[test]
fn a_namespace_that_cannot_be_part_of_an_identity() {
    let broken = pod("web", "10.1.0.2").replace("namespace: shop", "namespace: Shop");
    assert_complaints(
        &broken,
        &[
            "Pod Shop/web: metadata.namespace: \"Shop\" is not a Kubernetes name: use lower-case letters, digits, '-' or '.'",
        ],
    );
}

#[test]
fn typing_errors_in_our_keys_name_the_nearest_known_one() {
    for (place, key, cure) in [
        (
            "labels",
            "isthmus.dev/mehs",
            "remove it, or write it as the label isthmus.dev/mesh",
        ),
        (
            "annotations",
            "isthmus.dev/netsn",
            "remove it, or write it as the annotation isthmus.dev/netns",
        ),
        (
            "annotations",
            "isthmus.dev/cgroups",
            "remove it, or write it as the annotation isthmus.dev/cgroup",
        ),
        (
            "annotations",
            "isthmus.dev/mesh",
            "remove it, or write it as the label isthmus.dev/mesh",
        ),
    ] {
        let built = built(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: shop, {place}: {{{key}: x}}}}\n"
        ));
        let [problem] = &built.problems[..] else {
            panic!("{:?}", built.problems)
        };
        assert_eq!(problem.field, format!("metadata.{place}[{key}]"));
        assert_eq!(problem.cure, cure);
    }
    assert_complaints(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {isthmus.dev/mesh: enabld}}\n",
        &[
            "Namespace shop: metadata.labels[isthmus.dev/mesh]: \"enabld\" is neither \"enabled\" nor \"disabled\"",
        ],
    );
    assert_complaints(
        "apiVersion: v1\nkind: Service\nmetadata: {name: api, namespace: shop, labels: {isthmus.dev/mesh: enabled}}\n",
        &[
            "Service shop/api: metadata.labels[isthmus.dev/mesh]: Isthmus knows no such key here, so it has no effect",
        ],
    );
}

#[test]
fn two_pods_with_one_address_name_both_files_and_fields() {
    let one = objects("b.yaml", &pod("one", "10.1.0.2"));
    let two = objects("a.yaml", &pod_with("two", "10.1.0.2", "two", "other"));
    let built = build([&one, &two], "node-b", None);
    let [problem] = &built.problems[..] else {
        panic!("{:?}", built.problems)
    };
    assert_eq!(
        problem.to_string(),
        "a.yaml: Pod shop/two: status.podIPs: address 10.1.0.2 is also that of Pod shop/one (status.podIPs in b.yaml, object 1); \
         give each pod its own; until then connections to it are refused and no pod is newly enrolled with it"
    );
    assert!(built.complete, "neither is of this node");
}

#[test]
fn two_pods_in_one_namespace_or_cgroup() {
    let second = pod_with("two", "10.1.0.3", "one", "default");
    assert_complaints(
        &(pod("one", "10.1.0.2") + &second),
        &[
            "Pod shop/one: metadata.annotations[isthmus.dev/cgroup]: cgroup /cg/one is also that of Pod shop/two (metadata.annotations[isthmus.dev/cgroup] in mesh.yaml, object 2)",
            "Pod shop/one: metadata.annotations[isthmus.dev/netns]: network namespace /run/netns/one is also that of Pod shop/two (metadata.annotations[isthmus.dev/netns] in mesh.yaml, object 2)",
        ],
    );
}

#[test]
fn objects_described_twice_or_without_a_name() {
    let namespace = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    assert_complaints(
        &namespace.repeat(2),
        &[
            "Namespace shop: metadata.name: it is already described in mesh.yaml (object 1); this one has no effect",
        ],
    );
    assert_complaints(
        &(pod("web", "10.1.0.2") + &pod("web", "10.1.0.3")),
        &[
            "Pod shop/web: metadata.name: it is described more than once: mesh.yaml (object 1), mesh.yaml (object 2)",
        ],
    );
    for kind in ["Pod", "Namespace", "Service"] {
        assert_complaints(
            &format!("apiVersion: v1\nkind: {kind}\nmetadata: {{}}\n"),
            &[&format!(
                "{kind}: metadata.name: object 1 of the file has no name and has no effect"
            )],
        );
    }
}

#[test]
fn services_and_endpoints() {
    let service = |name: &str, spec: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
        )
    };
    assert_complaints(
        &service(
            "api",
            "{clusterIPs: [10.96.0.1, nonsense], ports: [{port: 80}, {port: 70000}]}",
        ),
        &[
            "Service shop/api: spec.clusterIPs[1]: \"nonsense\" is not an IP address",
            "Service shop/api: spec.ports[1].port: 70000 is not a TCP port",
        ],
    );
    assert_complaints(
        &(service("one", "{clusterIP: 10.96.0.1}") + &service("two", "{clusterIP: 10.96.0.1}")),
        &[
            "Service shop/two: spec.clusterIPs: 10.96.0.1 is also the address of Service shop/one in mesh.yaml (object 1)",
        ],
    );
    assert_complaints(
        &(pod("web", "10.96.0.1") + &service("one", "{clusterIP: 10.96.0.1}")),
        &[
            "Service shop/one: spec.clusterIPs: 10.96.0.1 is also the address of Pod shop/web in mesh.yaml (object 1)",
        ],
    );
    assert_complaints(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: api, namespace: shop, labels: {kubernetes.io/service-name: api}}
addressType: IPv4
endpoints: [{addresses: [10.1.0.2]}, {addresses: [127.0.0.1]}]
",
        &[
            "EndpointSlice shop/api: endpoints[1].addresses[0]: 127.0.0.1 is a loopback address, which belongs to no single host",
        ],
    );
}

#[test]
fn a_problem_is_one_line_whatever_is_in_it() {
    let yaml = pod("web", "10.1.0.2").replace("10.1.0.2", "\"10.1\\n\\e[31m\"");
    let built = built(&yaml);
    let line = built.problems[0].to_string();
    assert!(!line.contains(char::is_control), "{line:?}");
}
