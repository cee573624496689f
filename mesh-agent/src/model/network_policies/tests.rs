//! Which NetworkPolicies shut port 15008, as the API defines them.

use serde_json::{Value, json};

use super::*;

fn policy(name: &str, spec: Value) -> Arc<NetworkPolicy> {
    let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "shop"}, "spec": spec});
    let object: networking::NetworkPolicy = serde_json::from_value(object).unwrap();
    Arc::new(object.into())
}

/// What shuts port 15008 of a pod with the label `app: db`: `in` and `out`.
fn shut(specs: &[Value]) -> String {
    shut_with(specs, &[])
}

fn shut_with(specs: &[Value], hbone_ports: &[Box<str>]) -> String {
    let specs = specs.iter().enumerate();
    let policies = specs.map(|(i, spec)| policy(&format!("p{i}"), spec.clone()));
    let policies = NetworkPolicies::of(policies);
    let labels = BTreeMap::from([("app".to_owned(), "db".to_owned())]);
    let shut = policies.shut_of("shop", "db", &labels, hbone_ports);
    let directions = shut.map(|it| match it.direction {
        Direction::Ingress => "in",
        Direction::Egress => "out",
    });
    directions.collect::<Vec<_>>().join(" ")
}

#[test]
fn port_is_shut_by_rules_that_do_not_name_it() {
    for (ingress, expected) in [
        // No rule at all.
        (json!(null), "in"),
        (json!([]), "in"),
        // A rule without ports is about all of them, whatever its peers.
        (json!([{}]), ""),
        (json!([{"ports": []}]), ""),
        (json!([{"from": [{"podSelector": {}}]}]), ""),
        // By number.
        (json!([{"ports": [{"port": 5432}]}]), "in"),
        (json!([{"ports": [{"port": 15008}]}]), ""),
        (json!([{"ports": [{"port": 5432}, {"port": 15008}]}]), ""),
        (
            json!([{"ports": [{"port": 5432}]}, {"ports": [{"port": 15008}]}]),
            "",
        ),
        // By protocol.
        (
            json!([{"ports": [{"port": 15008, "protocol": "UDP"}]}]),
            "in",
        ),
        (json!([{"ports": [{"port": 15008, "protocol": "TCP"}]}]), ""),
        (json!([{"ports": [{"protocol": "UDP"}]}]), "in"),
        (json!([{"ports": [{"protocol": "TCP"}]}]), ""),
        // By range.
        (json!([{"ports": [{"port": 1024, "endPort": 32768}]}]), ""),
        (json!([{"ports": [{"port": 15008, "endPort": 15008}]}]), ""),
        (json!([{"ports": [{"port": 1024, "endPort": 15007}]}]), "in"),
        (
            json!([{"ports": [{"port": 15009, "endPort": 32768}]}]),
            "in",
        ),
        // By a name that no port of the pod's has.
        (json!([{"ports": [{"port": "sql"}]}]), "in"),
    ] {
        let spec = json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": ingress});
        assert_eq!(shut(&[spec]), expected, "{ingress}");
    }
}

#[test]
fn port_is_open_by_the_name_that_the_pod_gives_to_it() {
    let named = json!({"podSelector": {}, "ingress": [{"ports": [{"port": "hbone"}]}]});
    assert_eq!(
        shut_with(std::slice::from_ref(&named), &["hbone".into()]),
        ""
    );
    assert_eq!(shut_with(&[named], &["tunnel".into()]), "in");
}

#[test]
fn direction_is_that_of_the_policy_types_and_of_their_default() {
    let rules = json!([{"ports": [{"port": 443}]}]);
    for (spec, expected) in [
        (json!({}), "in"),
        (json!({"ingress": rules}), "in"),
        (json!({"egress": rules}), "in out"),
        (json!({"egress": []}), "in"),
        (json!({"policyTypes": [], "egress": rules}), "in out"),
        (json!({"policyTypes": ["Egress"]}), "out"),
        (json!({"policyTypes": ["Egress"], "egress": [{}]}), ""),
        (
            json!({"policyTypes": ["Egress"], "egress": [{"ports": [{"port": 15008}]}]}),
            "",
        ),
        (json!({"policyTypes": ["Ingress"], "egress": rules}), "in"),
        (json!({"policyTypes": ["Ingress", "Egress"]}), "in out"),
        // A name there is one of the destinations' ports.
        (
            json!({"policyTypes": ["Egress"], "egress": [{"ports": [{"port": "hbone"}]}]}),
            "",
        ),
    ] {
        let mut spec = spec;
        spec["podSelector"] = json!({});
        assert_eq!(shut(std::slice::from_ref(&spec)), expected, "{spec}");
    }
}

#[test]
fn selector_matches_labels_and_expressions() {
    let expression = |operator: &str, key: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
    for (selector, expected) in [
        (json!({}), "in"),
        (json!({"matchLabels": {"app": "db"}}), "in"),
        (json!({"matchLabels": {"app": "web"}}), ""),
        (json!({"matchLabels": {"app": "db", "tier": "back"}}), ""),
        (expression("In", "app", &["web", "db"]), "in"),
        (expression("In", "app", &["web"]), ""),
        (expression("In", "tier", &["back"]), ""),
        (expression("NotIn", "app", &["web"]), "in"),
        (expression("NotIn", "app", &["db"]), ""),
        (expression("NotIn", "tier", &["back"]), "in"),
        (expression("Exists", "app", &[]), "in"),
        (expression("Exists", "tier", &[]), ""),
        (expression("DoesNotExist", "tier", &[]), "in"),
        (expression("DoesNotExist", "app", &[]), ""),
        (expression("Like", "app", &["db"]), ""),
    ] {
        let spec = json!({"podSelector": selector});
        assert_eq!(shut(&[spec]), expected, "{selector}");
    }
}

#[test]
fn one_policy_that_opens_the_port_is_enough() {
    let db = json!({"podSelector": {}, "ingress": [{"ports": [{"port": 5432}]}]});
    let mesh = json!({"podSelector": {}, "ingress": [{"ports": [{"port": 15008}]}]});
    let other = json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{}]});
    assert_eq!(shut(&[db.clone(), mesh]), "");
    assert_eq!(shut(&[db, other]), "in");
    let elsewhere = NetworkPolicies::of([policy("deny", json!({"podSelector": {}}))].into_iter());
    let labels = BTreeMap::new();
    assert_eq!(elsewhere.shut_of("bank", "db", &labels, &[]).count(), 0);
}

#[test]
fn text_names_the_policies_and_what_to_allow() {
    let spec = json!({"podSelector": {}});
    let policies = ["d", "c", "b", "a"].map(|name| policy(name, spec.clone()));
    let policies = NetworkPolicies::of(policies.into_iter());
    let labels = BTreeMap::new();
    let shut = policies.shut_of("shop", "db", &labels, &[]).next().unwrap();
    let text = shut.to_string();
    let expected = "NetworkPolicies shop/a, shop/b, shop/c and 1 more allow no TCP to port 15008 of \
                    shop/db, by which the mesh reaches it";
    assert!(text.starts_with(expected), "{text}");
    assert!(
        text.ends_with("Allow ingress to port 15008 beside the application's ports"),
        "{text}"
    );
}
