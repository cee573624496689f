//! What the source makes of single objects, good and bad.

use std::sync::Arc;

use super::*;
use crate::model::{self, Place, Seen, Sourced};

/// A pod of this node.
fn local(name: &str, ip: &str) -> Value {
    let mut pod = pod(name, ip);
    pod["spec"]["nodeName"] = "node-a".into();
    pod["metadata"]["labels"] = json!({"isthmus.dev/mesh": "enabled"});
    pod
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_reported_and_hurts_no_other() {
    let fake = Fake::new();
    let mut bad = pod("bad", "10.0.0.9");
    bad["spec"]["hostNetwork"] = "perhaps".into();
    fake.put(PODS, bad);
    fake.put(
        PODS,
        json!({"metadata": {"name": "odd", "namespace": "shop"}, "spec": [1], "status": "?"}),
    );
    let mut source = source(&fake).await;
    let first = source.changed().await;
    // Without a node, account and address a pod is still one.
    assert_eq!(names(&first), ["db", "odd", "web"]);
    assert!(!first.complete);
    let expected =
        "Pod shop/bad: spec.hostNetwork: invalid type: string \"perhaps\", expected a boolean";
    assert_eq!(complaints(&first), [expected]);
    assert!(
        first.problems[0]
            .to_string()
            .starts_with("the Kubernetes API: Pod shop/bad")
    );

    fake.put(PODS, pod("bad", "10.0.0.9"));
    let healed = until(&mut source, |it| it.problems.is_empty()).await;
    assert!(healed.complete);
    // Its last good version stays.
    let mut bad = pod("bad", "10.0.0.8");
    bad["metadata"]["labels"] = json!({"a": 1});
    fake.put(PODS, bad);
    let kept = until(&mut source, |it| !it.problems.is_empty()).await;
    let ip: std::net::IpAddr = "10.0.0.9".parse().unwrap();
    assert_eq!(kept.world.workload("shop/bad").unwrap().addresses, [ip]);
    assert!(kept.complete);
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_cannot_be_read_refuses_until_it_can() {
    let fake = Fake::new();
    fake.serve("authorizationpolicies.security.istio.io");
    fake.put(POLICIES, policy("typo", json!({"rulez": []})));
    let mut source = source(&fake).await;
    let refusal =
        |loaded: &Loaded| format!("{:?}", loaded.world.policies()).contains("refuse: [PolicyRef");
    let first = source.changed().await;
    assert!(refusal(&first));
    // A tenant's mistake is not to close the ways to everywhere else.
    assert!(first.complete);
    assert!(
        complaints(&first)[0]
            .starts_with("AuthorizationPolicy shop/typo: spec.rulez: unknown field")
    );

    fake.put(POLICIES, policy("typo", json!({"rules": [{}]})));
    assert!(!refusal(
        &until(&mut source, |it| it.problems.is_empty()).await
    ));
    fake.put(POLICIES, policy("typo", json!({"rulez": []})));
    let kept = until(&mut source, |it| !it.problems.is_empty()).await;
    assert!(!refusal(&kept), "the last good version stays");
}

#[tokio::test(start_paused = true)]
async fn a_mesh_config_counts_in_our_namespace_alone() {
    let fake = Fake::new();
    fake.serve("meshconfigs.isthmus.dev");
    let config = |namespace: &str, domain: &str| {
        json!({"apiVersion": "isthmus.dev/v1alpha1", "kind": "MeshConfig",
            "metadata": {"name": "mesh", "namespace": namespace}, "spec": {"trustDomain": domain}})
    };
    fake.put(MESH_CONFIGS, config("shop", "evil.example"));
    let mut source = source(&fake).await;
    let first = source.changed().await;
    assert_eq!(first.world.mesh().trust_domain.to_string(), "cluster.local");
    assert!(complaints(&first)[0].starts_with("MeshConfig shop/mesh: metadata.namespace"));
    fake.put(
        MESH_CONFIGS,
        config(crate::config::NAMESPACE, "good.example"),
    );
    let domain = |it: &Loaded| it.world.mesh().trust_domain.to_string();
    until(&mut source, |it| domain(it) == "good.example").await;
}

/// A field that the definition does not know arrives since it keeps such fields.
#[tokio::test(start_paused = true)]
async fn mesh_config_with_unknown_fields_holds_as_far_as_it_is_known() {
    let fake = Fake::new();
    fake.serve("meshconfigs.isthmus.dev");
    let config = |spec: Value| {
        json!({"apiVersion": "isthmus.dev/v1alpha1", "kind": "MeshConfig",
            "metadata": {"name": "mesh", "namespace": crate::config::NAMESPACE}, "spec": spec})
    };
    let unknown = json!({"trustDomain": "one.example", "rootNamespace": "root",
        "future": 1, "revocation": {"later": {"a": 1}}});
    fake.put(MESH_CONFIGS, config(unknown));
    let mut source = source(&fake).await;
    let first = source.changed().await;
    assert_eq!(first.world.mesh().trust_domain.to_string(), "one.example");
    assert_eq!(first.world.mesh().root_namespace, "root");
    assert!(!first.complete);
    let said = complaints(&first);
    assert!(said[0].contains("unknown field"), "{said:?}");

    fake.put(MESH_CONFIGS, config(json!({"trustDomain": "two.example"})));
    let domain = |it: &Loaded| it.world.mesh().trust_domain.to_string();
    until(&mut source, |it| domain(it) == "two.example").await;
    // The last good version counts for more than a part of the newest.
    let unknown = json!({"trustDomain": "three.example", "future": 1});
    fake.put(MESH_CONFIGS, config(unknown));
    let kept = until(&mut source, |it| !it.problems.is_empty()).await;
    assert_eq!(domain(&kept), "two.example");
}

#[tokio::test(start_paused = true)]
async fn policy_with_a_field_of_a_later_version_refuses_and_names_it() {
    let fake = Fake::new();
    fake.serve("authorizationpolicies.security.istio.io");
    let rules = json!([{"from": [{"source": {"namespaces": ["shop"], "futureField": ["x"]}}]}]);
    fake.put(POLICIES, policy("later", json!({"rules": rules})));
    let mut source = source(&fake).await;
    let first = source.changed().await;
    let said = complaints(&first);
    let field = "spec.rules[0].from[0].source.futureField: unknown field";
    assert!(said[0].contains(field), "{said:?}");
    assert!(format!("{:?}", first.world.policies()).contains("refuse: [PolicyRef"));
    assert_eq!(first.policies[0].unread.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn annotations_choose_neither_place_nor_identity() {
    let fake = Fake::new();
    let mut claims = local("claims", "10.0.0.7");
    claims["metadata"]["annotations"] = json!({
        "isthmus.dev/netns": "/proc/1/ns/net",
        "isthmus.dev/cgroup": "/sys/fs/cgroup",
        "isthmus.dev/trust-domain": "other.example",
        "isthmus.dev/tls-names": "bank.example.com",
        "isthmus.dev/status": "not enrolled: a reason that the agent wrote",
        "isthmus.dev/staus": "a slip",
    });
    fake.put(PODS, claims);
    let mut source = source(&fake).await;
    let first = source.changed().await;
    let workload = first.world.workload("shop/claims").unwrap();
    assert_eq!(workload.local, None);
    assert_eq!(
        workload.identity.to_string(),
        "spiffe://cluster.local/ns/shop/sa/claims"
    );
    assert!(workload.tls_names.is_empty());
    let fields: Vec<&str> = first.problems.iter().map(|it| it.field.as_str()).collect();
    let expected = [
        "metadata.annotations[isthmus.dev/cgroup]",
        "metadata.annotations[isthmus.dev/netns]",
        "metadata.annotations[isthmus.dev/staus]",
        "metadata.annotations[isthmus.dev/tls-names]",
        "metadata.annotations[isthmus.dev/trust-domain]",
        "metadata.uid",
    ];
    assert_eq!(fields, expected);
    // Where other pods are is known all the same; but whose an old enrolment is, is not.
    assert!(first.complete && !first.all_found);
}

#[tokio::test(start_paused = true)]
async fn a_pod_without_a_sandbox_is_no_problem_while_it_starts() {
    let fake = Fake::new();
    let mut starting = local("starting", "");
    starting["status"] = json!({"phase": "Pending"});
    fake.put(PODS, starting);
    let mut source = source(&fake).await;
    let first = source.changed().await;
    assert!(names(&first).contains(&"starting"));
    assert_eq!(complaints(&first), Vec::<String>::new());
    assert!(first.all_found);
    fake.put(PODS, local("starting", "10.0.0.7"));
    let running = until(&mut source, |it| !it.problems.is_empty()).await;
    assert!(
        complaints(&running)[0].starts_with("Pod shop/starting: metadata.uid: no control group")
    );
    assert!(!running.all_found);
    // The node was off and on: the kubelet has yet to make it anew.
    let mut rebooted = local("starting", "");
    rebooted["status"] = json!({"phase": "Running"});
    fake.put(PODS, rebooted);
    until(&mut source, |it| it.problems.is_empty()).await;
}

fn read(pod: Value) -> model::Pod {
    let body = serde_json::from_value(pod).unwrap();
    super::super::pod::read(body, &mut Default::default()).unwrap()
}

#[test]
fn where_the_node_has_a_pod_it_is_enrolled() {
    let mut starting = local("web", "");
    starting["status"] = json!({"phase": "Pending"});
    let mut pod = read(starting);
    let seen = Seen {
        local: model::LocalPod {
            netns: "/run/netns/cni-1".into(),
            cgroup: "/cg/pod1".into(),
        },
        addresses: vec!["10.0.0.1".parse().unwrap()],
    };
    pod.place = Place::Seen(Some(Box::new(seen.clone())));
    let origin = model::Origin::api();
    let objects = model::Objects {
        pods: vec![Sourced {
            object: Arc::new(pod),
            origin,
        }],
        ..model::Objects::default()
    };
    let built = model::build([&objects], "node-a", None);
    let workload = built.world.workload("shop/web").unwrap();
    assert_eq!(workload.local.as_ref(), Some(&seen.local));
    assert_eq!(workload.addresses, seen.addresses);
    assert_eq!(workload.kube_uid.as_deref(), Some("uid-of-web"));
}

#[test]
fn mirror_has_the_uid_that_the_kubelet_knows() {
    let mut mirror = local("static", "10.0.0.1");
    let uid = "0123456789abcdef0123456789abcdef";
    let annotations = |uid: &str| {
        json!({
            "kubernetes.io/config.mirror": uid, "kubernetes.io/config.hash": uid,
            "kubernetes.io/config.source": "file",
        })
    };
    mirror["metadata"]["annotations"] = annotations(uid);
    mirror["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Node", "name": "node-a", "uid": "u", "controller": true}]);
    assert_eq!(read(mirror.clone()).kube_uid.as_deref(), Some(uid));
    let refused = |mirror: Value, case: &str| {
        assert_eq!(
            read(mirror).kube_uid.as_deref(),
            Some("uid-of-static"),
            "{case}"
        );
    };
    // The UID of another pod, and a way out of the folder.
    for stolen in [
        "f8b1c2d4-0000-4000-8000-000000000000",
        "../../../etc/0123456789abcdef012",
    ] {
        let mut thief = mirror.clone();
        thief["metadata"]["annotations"] = annotations(stolen);
        refused(thief, stolen);
    }
    // What the kubelet writes beside it is absent, or says otherwise.
    for (pointer, value) in [
        ("/metadata/ownerReferences", json!(null)),
        ("/metadata/ownerReferences", json!([])),
        ("/metadata/ownerReferences/0/kind", json!("ReplicaSet")),
        ("/metadata/ownerReferences/0/name", json!("node-b")),
        (
            "/metadata/annotations/kubernetes.io~1config.source",
            json!("api"),
        ),
        (
            "/metadata/annotations/kubernetes.io~1config.hash",
            json!("f".repeat(32)),
        ),
    ] {
        let mut other = mirror.clone();
        *other.pointer_mut(pointer).unwrap() = value.clone();
        refused(other, &format!("{pointer}: {value}"));
    }
}

#[test]
fn node_keeps_its_ranges_and_its_readiness() {
    let kind = super::super::kinds::Kind::new("", "v1", "Node", "nodes");
    let node = json!({
        "metadata": {"name": "n"},
        "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"], "providerID": "x"},
        "status": {"addresses": [{"type": "Hostname", "address": "n"}], "conditions": [
            {"type": "DiskPressure", "status": "False"},
            {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"},
        ]},
    });
    let received = serde_json::from_value(node).unwrap();
    let read =
        <Value as super::super::read::Readable>::read(received, &kind, &mut Default::default());
    let objects = read.objects.unwrap();
    let node = serde_json::to_value(&objects.nodes[0].object).unwrap();
    assert_eq!(
        node["spec"],
        json!({"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]})
    );
    assert_eq!(
        node["status"],
        json!({"conditions": [{"type": "Ready", "status": "True"}]})
    );
}

#[tokio::test(start_paused = true)]
async fn every_policy_is_told_with_its_newest_version() {
    let fake = Fake::new();
    fake.serve("authorizationpolicies.security.istio.io");
    let put = |name: &str, generation: i64, spec: Value| {
        let mut policy = policy(name, spec);
        policy["metadata"]["generation"] = generation.into();
        fake.put(POLICIES, policy);
    };
    put("good", 3, json!({"rules": [{}]}));
    put("typo", 1, json!({"rules": [{}]}));
    let mut source = source(&fake).await;
    // Name, generation and number of problems.
    let versions = |loaded: &Loaded| -> Vec<(String, i64, usize)> {
        let policies = loaded.policies.iter();
        policies
            .map(|it| {
                assert_eq!(it.kind, model::UnreadKind::AuthorizationPolicy);
                assert_eq!(&*it.namespace, "shop");
                (it.name.to_string(), it.generation, it.unread.len())
            })
            .collect()
    };
    let first = source.changed().await;
    let good = ("good".to_owned(), 3, 0);
    assert_eq!(versions(&first), [good.clone(), ("typo".to_owned(), 1, 0)]);
    put("typo", 2, json!({"rulez": []}));
    let unread = until(&mut source, |it| !it.problems.is_empty()).await;
    assert_eq!(versions(&unread), [good, ("typo".to_owned(), 2, 1)]);
    // Another version that means the same is to be told of too.
    put("good", 4, json!({"rules": [{}]}));
    until(&mut source, |it| {
        versions(it).contains(&("good".to_owned(), 4, 0))
    })
    .await;
}
