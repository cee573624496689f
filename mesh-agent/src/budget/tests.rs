//! Which pod gets how much of the node.

use super::*;

fn node(descriptors: u64, pod: u64) -> Arc<NodeBudget> {
    NodeBudget::new(&BudgetLimits {
        node_descriptors: descriptors,
        pod_descriptors: pod,
        node_buffered_bytes: 1000,
        pod_buffered_bytes: 600,
    })
}

/// Takes descriptors until there are no more.
fn exhaust(pod: &Arc<PodBudget>) -> (Vec<Descriptor>, OverLimit) {
    let mut held = Vec::new();
    loop {
        match pod.descriptor() {
            Ok(descriptor) => held.push(descriptor),
            Err(over) => return (held, over),
        }
    }
}

#[test]
fn descriptor_of_one_pod_ends_at_its_own_limit() {
    let node = node(100, 50);
    let pod = node.pod();
    let (held, over) = exhaust(&pod);
    assert_eq!(held.len(), 50);
    let detail = over.to_string();
    assert!(detail.contains("50 of the 50 descriptors"), "{detail}");
    assert!(detail.contains("--pod-descriptors"), "{detail}");
    assert_eq!(
        pod.descriptors(),
        Usage {
            used: 50,
            limit: 50
        }
    );
    drop(held);
    assert_eq!(node.descriptors().used, 0);
    assert!(pod.descriptor().is_ok());
}

#[test]
fn descriptor_reserve_is_for_pods_below_their_share() {
    let node = node(100, 50);
    let (greedy, second, small) = (node.pod(), node.pod(), node.pod());
    let (first_held, _) = exhaust(&greedy);
    let (second_held, over) = exhaust(&second);
    assert_eq!(first_held.len(), 50);
    assert_eq!(second_held.len(), 25, "up to the reserve of 25");
    assert!(matches!(over, OverLimit::Node { share: 8, .. }), "{over:?}");
    let (small_held, _) = exhaust(&small);
    assert_eq!(small_held.len(), 8, "a third of the reserve");
    assert_eq!(node.descriptors().used, 83);
}

#[test]
fn descriptor_share_grows_when_a_pod_leaves() {
    let node = node(100, 80);
    let (greedy, small) = (node.pod(), node.pod());
    let (_held, _) = exhaust(&greedy);
    assert_eq!(exhaust(&small).0.len(), 12);
    let third = node.pod();
    assert_eq!(exhaust(&small).0.len(), 8);
    drop(third);
    assert_eq!(exhaust(&small).0.len(), 12);
}

#[test]
fn spare_descriptor_is_refused_above_half_of_the_limit() {
    let node = node(100, 50);
    let pod = node.pod();
    let held: Vec<_> = (0..26).map(|_| pod.descriptor().unwrap()).collect();
    assert!(pod.spare_descriptor().is_none());
    assert!(pod.descriptor().is_ok());
    drop(held);
    assert!(pod.spare_descriptor().is_some());
}

#[test]
fn buffered_bytes_follow_the_account_and_return_when_dropped() {
    let node = node(100, 50);
    let pod = node.pod();
    let mut account = pod.buffered();
    account.set(400).unwrap();
    account.set(100).unwrap();
    assert_eq!(pod.buffered_bytes().used, 100);
    let mut other = pod.buffered();
    other.set(500).unwrap();
    let over = account.set(101).unwrap_err();
    assert!(over.to_string().contains("--pod-buffered-bytes"), "{over}");
    assert_eq!(node.buffered_bytes().used, 600, "the account is unchanged");
    drop((account, other));
    assert_eq!(node.buffered_bytes().used, 0);
}

#[test]
fn pressure_begins_at_half_and_spares_pods_below_their_share() {
    let node = node(100, 50);
    let (large, small) = (node.pod(), node.pod());
    let mut account = large.buffered();
    account.add(300);
    assert!(!large.is_pressed());
    account.add(250);
    assert!(large.is_pressed());
    assert!(!small.is_pressed());
    let mut some = small.buffered();
    some.add(125);
    assert!(!small.is_pressed(), "its share is 125");
    some.add(1);
    assert!(small.is_pressed());
}

#[test]
fn accounts_of_many_threads_come_out_even() {
    let node = node(64, 32);
    let pod = node.pod();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    let taken = pod.descriptor();
                    assert!(pod.descriptors().used <= 32 + 4);
                    drop(taken);
                }
            });
        }
    });
    assert_eq!(pod.descriptors().used, 0);
    assert_eq!(node.descriptors().used, 0);
}
