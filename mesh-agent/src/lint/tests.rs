//! What lint finds in a folder, and that it finds nothing where nothing is wrong.

use std::fs;

use super::*;
use crate::config::read_folder;
use crate::model::Severity;

const WORLD: &str = include_str!("../explain/testdata/world.yaml");

/// `severity object field: message` of every finding in a folder of the world and one
/// policy of its own.
fn found(files: &[(&str, &str)]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let folder = read_folder(dir.path()).unwrap();
    let shown = |it: &Problem| {
        let severity = match it.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let object = it.object.as_deref().unwrap_or_default();
        format!("{severity} {object} {}: {}", it.field, it.message)
    };
    lint(&folder).iter().map(shown).collect()
}

fn policy(name: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}, namespace: shop}}\nspec: {{{rest}}}\n"
    )
}

#[test]
fn a_sound_folder_has_nothing_wrong() {
    assert_eq!(found(&[("world.yaml", WORLD)]), Vec::<String>::new());
}

/// Each policy alone beside pods and Services: what is said of it.
#[test]
fn a_table_of_findings() {
    let pods = pods();
    for (spec, expected) in [
        ("rules: [{}]", None),
        (
            "action: DENY",
            Some("error AuthorizationPolicy shop/p spec.rules: a DENY policy without rules"),
        ),
        (
            "action: DENY, rules: []",
            Some("error AuthorizationPolicy shop/p spec.rules: a DENY policy"),
        ),
        (
            "selector: {matchLabels: {app: dbb}}, rules: [{}]",
            Some(
                "warning AuthorizationPolicy shop/p spec.selector.matchLabels: no workload has app=dbb",
            ),
        ),
        (
            "ruels: [{}]",
            Some("error AuthorizationPolicy shop/p spec.ruels: unknown field"),
        ),
        (
            "rules: [{to: [{operation: {methods: [GET]}}]}]",
            Some(
                "warning AuthorizationPolicy shop/p spec.rules[0].to[0].operation.methods: it needs HTTP",
            ),
        ),
        // Principals of one namespace, and another namespace.
        (
            "rules: [{from: [{source: {principals: [cluster.local/ns/a/sa/x], namespaces: [b]}}]}]",
            Some(
                "warning AuthorizationPolicy shop/p spec.rules[0]: the rule can never match: no identity satisfies from[0].source.principals and from[0].source.namespaces together",
            ),
        ),
        (
            "rules: [{from: [{source: {principals: [cluster.local/ns/a/sa/x], namespaces: [a]}}]}]",
            None,
        ),
        (
            "rules: [{from: [{source: {principals: [cluster.local/ns/a/sa/x]}}], when: [{key: source.namespace, values: [b]}]}]",
            Some("no identity satisfies from[0].source.principals and when[0].values together"),
        ),
        (
            "rules: [{from: [{source: {principals: [cluster.local/ns/a/sa/x], namespaces: [b]}}, {source: {namespaces: [b]}}]}]",
            None,
        ),
        (
            "rules: [{from: [{source: {principals: [a/x]}}]}]",
            Some("none of a/x is an identity"),
        ),
        (
            "rules: [{from: [{source: {principals: [other/ns/a/sa/x]}}]}]",
            Some("nothing vouches for the trust domain"),
        ),
        (
            "rules: [{from: [{source: {principals: ['*/ns/a/sa/x'], namespaces: [b]}}]}]",
            None,
        ),
        (
            "rules: [{from: [{source: {namespaces: [a], notNamespaces: ['*']}}]}]",
            Some(
                "no namespace satisfies from[0].source.namespaces and from[0].source.notNamespaces",
            ),
        ),
        (
            "rules: [{from: [{source: {serviceAccounts: [a/x]}}], when: [{key: source.namespace, values: [b]}]}]",
            Some("no identity satisfies from[0].source.serviceAccounts and when[0].values"),
        ),
        (
            "rules: [{to: [{operation: {ports: ['80']}}], when: [{key: destination.port, values: ['81']}]}]",
            Some("no port satisfies to[0].operation.ports and when[0].values"),
        ),
        (
            "rules: [{to: [{operation: {ports: ['80', '81'], notPorts: ['81']}}]}]",
            None,
        ),
        (
            "rules: [{from: [{source: {ipBlocks: [10.0.0.0/24], notIpBlocks: [10.0.0.0/8]}}]}]",
            Some("no source address satisfies"),
        ),
        (
            "rules: [{from: [{source: {ipBlocks: [10.0.0.0/8], notIpBlocks: [10.0.0.0/24]}}]}]",
            None,
        ),
        (
            "rules: [{from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}], when: [{key: remote.ip, values: [192.0.2.0/24]}]}]",
            Some("no client address satisfies"),
        ),
        (
            "rules: [{to: [{operation: {ports: ['80']}}]}, {to: [{operation: {ports: ['80']}}]}]",
            Some(
                "warning AuthorizationPolicy shop/p spec.rules[1]: it says the same as spec.rules[0]",
            ),
        ),
        (
            "rules: [{}, {to: [{operation: {ports: ['80']}}]}]",
            Some(
                "warning AuthorizationPolicy shop/p spec.rules[1]: spec.rules[0] matches everything already",
            ),
        ),
    ] {
        let text = policy("p", spec);
        let seen = found(&[("pods.yaml", &pods), ("policy.yaml", &text)]);
        match expected {
            None => assert_eq!(seen, Vec::<String>::new(), "{spec}"),
            Some(expected) => {
                assert_eq!(seen.len(), 1, "{spec}: {seen:#?}");
                assert!(seen[0].contains(expected), "{spec}: {seen:#?}");
            }
        }
    }
}

fn pods() -> String {
    let documents = WORLD.split("---\n");
    let documents = documents.filter(|it| !it.contains("security.istio.io"));
    documents.collect::<Vec<_>>().join("---\n")
}

/// Two policies, and what is said of the second.
#[test]
fn a_table_of_shadows() {
    let pods = pods();
    let some = "rules: [{to: [{operation: {ports: ['80']}}]}]";
    let of_db = "selector: {matchLabels: {app: db}}";
    let all = "rules: [{}]";
    for (first, second, expected) in [
        (
            some.to_owned(),
            some.to_owned(),
            Some("AuthorizationPolicy shop/a says the same"),
        ),
        (some.to_owned(), format!("{of_db}, {some}"), None),
        (
            format!("action: DENY, {all}"),
            some.to_owned(),
            Some("AuthorizationPolicy shop/a denies everything, so nothing"),
        ),
        (
            format!("action: DENY, {all}"),
            format!("action: DENY, {of_db}, {some}"),
            Some("AuthorizationPolicy shop/a denies everything already"),
        ),
        (
            format!("action: DENY, {of_db}, {all}"),
            some.to_owned(),
            None,
        ),
        (
            all.to_owned(),
            format!("{of_db}, {some}"),
            Some("AuthorizationPolicy shop/a allows everything"),
        ),
        (all.to_owned(), format!("action: DENY, {some}"), None),
        (format!("action: DENY, {some}"), some.to_owned(), None),
    ] {
        let text = policy("a", &first) + &policy("b", &second);
        let seen = found(&[("pods.yaml", &pods), ("policy.yaml", &text)]);
        match expected {
            None => assert_eq!(seen, Vec::<String>::new(), "{first} | {second}"),
            Some(expected) => {
                assert_eq!(seen.len(), 1, "{first} | {second}: {seen:#?}");
                assert!(seen[0].contains("shop/b spec: "), "{seen:#?}");
                assert!(seen[0].contains(expected), "{first} | {second}: {seen:#?}");
            }
        }
    }
}

#[test]
fn of_two_that_refuse_everything_one_is_reported() {
    let all = "action: DENY, rules: [{}]";
    let longer = "action: DENY, rules: [{}, {to: [{operation: {ports: ['80']}}]}]";
    let text = policy("a", all) + &policy("b", longer);
    let seen = found(&[("pods.yaml", &pods()), ("policy.yaml", &text)]);
    let about = |name: &str| seen.iter().filter(|it| it.contains(name)).count();
    assert_eq!(about("shop/b spec: "), 1, "{seen:#?}");
    assert_eq!(about("shop/a spec: "), 0, "{seen:#?}");
}

#[test]
fn selectors_are_not_judged_in_a_folder_without_workloads() {
    let text = policy("p", "selector: {matchLabels: {app: nobody}}, rules: [{}]");
    assert_eq!(found(&[("policy.yaml", &text)]), Vec::<String>::new());
}

#[test]
fn errors_come_before_warnings_whatever_the_file() {
    let http = policy("a", "rules: [{to: [{operation: {methods: [GET]}}]}]");
    let empty = policy("b", "action: DENY");
    let seen = found(&[("1.yaml", &http), ("2.yaml", &empty)]);
    assert!(
        seen[0].starts_with("error ") && seen[1].starts_with("warning "),
        "{seen:#?}"
    );
}
