use serde_json::json;

use super::*;

fn pod(uid: &str, node: &str, account: &str, phase: &str) -> Slim {
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": uid, "uid": uid},
        "spec": {"nodeName": node, "serviceAccountName": account, "containers": [{"name": "c"}]},
        "status": {"phase": phase, "podIP": "10.0.0.1"}});
    serde_json::from_value(pod).unwrap()
}

fn web(node: &str) -> Place<'_> {
    Place {
        node,
        namespace: "shop",
        account: "web",
    }
}

#[test]
fn an_account_is_on_a_node_for_as_long_as_one_of_its_pods() {
    let mut placed = Placed::default();
    placed.put(&pod("1", "a", "web", "Running"));
    placed.put(&pod("2", "a", "web", "Pending"));
    // Told again, as after each change of a pod.
    placed.put(&pod("2", "a", "web", "Running"));
    placed.remove("1");
    assert!(placed.holds(&web("a")));
    assert!(!placed.holds(&web("b")));
    placed.put(&pod("2", "a", "web", "Succeeded"));
    assert!(!placed.holds(&web("a")));
    placed.remove("2");
    assert!(placed.counts.is_empty() && placed.by_uid.is_empty());
}

#[test]
fn a_pod_without_node_or_account_is_nobody() {
    let mut placed = Placed::default();
    placed.put(&pod("1", "", "web", "Pending"));
    placed.put(&pod("2", "a", "", "Running"));
    placed.put(&pod("3", "a", "web", "Failed"));
    assert!(placed.counts.is_empty());
    let nobody = Place {
        account: "",
        ..web("a")
    };
    assert!(!placed.holds(&nobody) && !placed.holds(&web("")));
}

#[test]
fn a_new_list_replaces_the_old_one_at_once() {
    let mut known = Known::default();
    known.take(Event::Init);
    known.take(Event::InitApply(pod("1", "a", "web", "Running")));
    assert!(!known.current);
    known.take(Event::InitDone);
    assert!(known.current && known.placed.holds(&web("a")));
    known.take(Event::Init);
    known.take(Event::InitApply(pod("2", "b", "web", "Running")));
    assert!(known.placed.holds(&web("a")), "until the new one is whole");
    known.take(Event::InitDone);
    assert!(known.placed.holds(&web("b")) && !known.placed.holds(&web("a")));
    known.take(Event::Delete(pod("2", "b", "web", "Running")));
    assert!(!known.placed.holds(&web("b")));
}
