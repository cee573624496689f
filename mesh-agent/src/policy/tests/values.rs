//! Where the tables would be too long: texts in parts, blocks of addresses, and what
//! stays in force of a policy that has become unusable.

use super::super::denial::Denial;
use super::super::values::{IpBlock, Pattern};
use super::super::{Policies, inbound};
use super::{Question, built, pod};
use crate::identity::SpiffeId;

#[test]
fn a_text_in_parts_matches_like_the_whole() {
    let parts = ["ab", "", "c", "abc"];
    let whole = parts.concat();
    for text in [
        "abcabc", "a*", "ab*", "abc*", "abca*", "abcabc*", "abcabcd*", "b*", "*", "*c", "*bc",
        "*abc", "*cabc", "*abcabc", "*xabcabc", "abcab", "abcabcd", "bcabc", "ac*",
    ] {
        let pattern = Pattern::new(text);
        assert_eq!(pattern.to_string(), text);
        let in_parts = pattern.matches(&parts);
        assert_eq!(in_parts, pattern.matches(&[&whole]), "{text}");
        let expected = match text.strip_prefix('*') {
            Some(suffix) => whole.ends_with(suffix),
            None => match text.strip_suffix('*') {
                Some(prefix) => whole.starts_with(prefix),
                None => whole == text,
            },
        };
        assert_eq!(in_parts, expected, "{text}");
    }
    assert!(!Pattern::new("*").matches(&["", ""]));
}

#[test]
fn blocks_of_addresses() {
    for (block, ip, expected) in [
        ("0.0.0.0/0", "255.1.2.3", true),
        ("0.0.0.0/0", "::1", false),
        ("::/0", "::1", true),
        ("::/0", "10.0.0.1", false),
        ("10.0.0.7/31", "10.0.0.6", true),
        ("10.0.0.7/31", "10.0.0.8", false),
        ("::ffff:10.0.0.0/104", "10.200.0.1", true),
        ("::ffff:10.0.0.0/104", "11.0.0.1", false),
        ("::ffff:10.0.0.1", "10.0.0.1", true),
    ] {
        let found = IpBlock::new(block).unwrap().contains(ip.parse().unwrap());
        assert_eq!(found, expected, "{block} {ip}");
    }
    for text in [
        "",
        "10.0.0.1/",
        "10.0.0.1/+8",
        "10.0.0.1/33",
        "::/129",
        "a",
        "10.0.0.1/8/8",
    ] {
        assert!(IpBlock::new(text).is_err(), "{text}");
    }
}

fn policy(spec: &str) -> String {
    let pod = pod("shop", "web", "10.1.0.1", ", app: web");
    format!(
        "{pod}---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: p, namespace: shop}}
spec: {spec}
"
    )
}

fn question(account: &str) -> Question {
    let ip = "10.1.0.9".parse().unwrap();
    Question {
        to: "shop/web".to_owned(),
        port: 80,
        from: format!("spiffe://cluster.local/ns/shop/sa/{account}")
            .parse()
            .ok(),
        peer_ip: ip,
        client_ip: ip,
    }
}

#[test]
fn the_last_good_version_stays_in_force_through_any_number_of_bad_ones() {
    let good = "{action: DENY, rules: [{from: [{source: {serviceAccounts: [a]}}]}]}";
    let bad = "{action: DENY, rules: [{from: [{source: {serviceAccounts: [b], ipBlocks: [x]}}]}]}";
    let mut world = built(&policy(good), None).world;
    for _ in 0..3 {
        let next = built(&policy(bad), Some(&world));
        assert_eq!(next.problems.len(), 1, "{:?}", next.problems);
        world = next.world;
        assert!(matches!(
            question("a").ask(&world).outcome,
            Err(Denial::Policy { .. })
        ));
        assert!(question("b").ask(&world).outcome.is_ok());
    }
    // Deleted, it is forgotten, and the next bad one has no good version.
    world = built(&pod("shop", "web", "10.1.0.1", ""), Some(&world)).world;
    assert!(question("a").ask(&world).outcome.is_ok());
    world = built(&policy(bad), Some(&world)).world;
    for account in ["a", "b"] {
        let outcome = question(account).ask(&world).outcome;
        assert!(
            matches!(outcome, Err(Denial::PolicyUnusable { .. })),
            "{outcome:?}"
        );
    }
    world = built(&policy("{rules: [{}]}"), Some(&world)).world;
    assert!(question("a").ask(&world).outcome.is_ok());
}

#[test]
fn nothing_is_permitted_before_a_configuration_was_read() {
    let world = built(&policy("{rules: [{}]}"), None).world;
    let web = world.workload("shop/web").unwrap();
    let asked = question("a");
    assert!(asked.ask(&world).outcome.is_ok());
    let nothing = Policies::default();
    let denied = inbound(&nothing, world.mesh(), &asked.request(web)).outcome;
    assert_eq!(denied.unwrap_err(), Denial::NotSynced);
}

#[test]
fn a_workload_of_another_generation_is_judged_by_its_labels() {
    let spec = "{selector: {matchLabels: {app: web}}, action: DENY, rules: [{}]}";
    let with = built(&policy(spec), None).world;
    let web = with.workload("shop/web").unwrap();
    let only_policy = policy(spec).replace("kind: Pod", "kind: PodTemplate");
    let without = built(&only_policy, None).world;
    assert!(without.workload("shop/web").is_none());
    let asked = question("a");
    let decision = inbound(without.policies(), without.mesh(), &asked.request(web));
    assert!(matches!(decision.outcome, Err(Denial::Policy { .. })));
}

#[test]
fn a_denial_says_all_that_a_person_needs() {
    let spec = "{rules: [{from: [{source: {serviceAccounts: [b]}}]}]}";
    let world = built(&policy(spec), None).world;
    let denied = question("a").ask(&world).outcome.unwrap_err().to_string();
    assert_eq!(
        denied,
        "no ALLOW policy matched cluster.local/ns/shop/sa/a; nearest was shop/p spec.rules[0]: from[0].source.serviceAccounts wants one of [shop/b] and saw shop/a"
    );
    let plaintext = Question {
        from: None::<SpiffeId>,
        ..question("a")
    };
    let denied = plaintext.ask(&world).outcome.unwrap_err().to_string();
    assert_eq!(
        denied,
        "no ALLOW policy matched a peer without identity (plaintext); nearest was shop/p spec.rules[0]: from[0].source.serviceAccounts wants one of [shop/b] and saw no identity (plaintext)"
    );
}
