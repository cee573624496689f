//! Whose an address is that several pods claim, as the objects of a cluster have it.

use super::super::Severity;
use super::resolve::resolve;
use super::{built, complaints, pod, rebuilt};

/// A pod of `node` with the address.
fn of_node(name: &str, node: &str) -> String {
    pod(name, "10.1.0.2").replace("nodeName: node-a", &format!("nodeName: {node}"))
}

fn terminating(pod: &str) -> String {
    pod.replace(
        "  namespace: shop",
        "  namespace: shop\n  deletionTimestamp: 2026-01-01T00:00:00Z",
    )
}

fn unmeshed(pod: &str) -> String {
    pod.replace("mesh: enabled", "mesh: disabled")
}

fn node(name: &str, cidr: &str, ready: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Node
metadata: {{name: {name}}}
spec: {{podCIDR: {cidr}, podCIDRs: [{cidr}, fd00::/64]}}
status: {{conditions: [{{type: MemoryPressure, status: 'False'}}, {{type: Ready, status: '{ready}'}}]}}
"
    )
}

const ADDRESS: &str = "10.1.0.2:80";

#[test]
fn address_is_that_of_the_better_claim() {
    let nodes = node("node-b", "10.1.0.0/24", "True") + &node("node-c", "10.1.1.0/24", "True");
    let lost = node("node-b", "10.9.0.0/24", "Unknown") + &node("node-c", "10.9.1.0/24", "True");
    let (b, c) = (of_node("b", "node-b"), of_node("c", "node-c"));
    for (objects, expected) in [
        (b.clone() + &c, "disputed"),
        (nodes.clone() + &b + &c, "workload shop/b"),
        (nodes.clone() + &terminating(&b) + &c, "workload shop/b"),
        (lost.clone() + &b + &c, "workload shop/c"),
        (terminating(&b) + &c, "workload shop/c"),
        (terminating(&b) + &unmeshed(&c), "disputed"),
        (unmeshed(&terminating(&b)) + &c, "workload shop/c"),
        // The node of one was removed, with its pods to follow.
        (
            node("node-c", "10.9.1.0/24", "True") + &b + &c,
            "workload shop/c",
        ),
    ] {
        let built = built(&objects);
        assert_eq!(resolve(&built.world, ADDRESS), expected, "{objects}");
        let [problem] = &built.problems[..] else {
            panic!("{:?}", built.problems);
        };
        let decided = expected != "disputed";
        assert_eq!(problem.severity == Severity::Warning, decided, "{problem}");
        assert_eq!(
            problem.message.contains("it counts as"),
            decided,
            "{problem}"
        );
    }
}

#[test]
fn address_changes_hands_when_the_evidence_does() {
    let (b, c) = (of_node("b", "node-b"), of_node("c", "node-c"));
    let both = built(&(b.clone() + &c));
    assert_eq!(resolve(&both.world, ADDRESS), "disputed");
    let stale = rebuilt(&both.world, &(terminating(&b) + &c));
    assert_eq!(resolve(&stale.world, ADDRESS), "workload shop/c");
    assert_eq!(
        complaints(&stale),
        [
            "Pod shop/b: status.podIPs: address 10.1.0.2 is also that of Pod shop/c (status.podIPs in mesh.yaml, object 2): \
          it counts as that of Pod shop/c, since the others are being deleted"
        ]
    );
    let gone = rebuilt(&stale.world, &c);
    assert_eq!(resolve(&gone.world, ADDRESS), "workload shop/c");
    assert_eq!(complaints(&gone), [""; 0]);
}

#[test]
fn claim_of_another_node_keeps_no_pod_of_this_node_from_being_enrolled() {
    let built = built(&(of_node("own", "node-a") + &of_node("other", "node-b")));
    assert!(built.world.workload("shop/own").unwrap().local.is_some());
    assert_eq!(resolve(&built.world, ADDRESS), "disputed");
}
