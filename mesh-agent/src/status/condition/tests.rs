use std::path::PathBuf;

use super::*;
use crate::status::PolicyKind;

fn problem(message: &str, severity: Severity) -> Problem {
    Problem {
        file: PathBuf::from("AuthorizationPolicy shop/web"),
        object: Some("AuthorizationPolicy shop/web".into()),
        field: "spec.rules[0].to".into(),
        message: message.into(),
        cure: "remove it".into(),
        severity,
    }
}

fn policy(generation: i64, problems: Vec<Problem>) -> PolicyStatus {
    PolicyStatus {
        kind: PolicyKind::AuthorizationPolicy,
        namespace: "shop".into(),
        name: "web".into(),
        generation,
        problems,
    }
}

#[test]
fn a_policy_is_accepted_or_the_condition_names_field_and_cure() {
    let condition = |problems| merged(&[], &policy(3, problems), "now").unwrap().remove(0);
    let good = condition(Vec::new());
    assert_eq!(good["type"], "isthmus.dev/Accepted");
    assert_eq!(
        (&good["status"], &good["reason"]),
        (&json!("True"), &json!("Accepted"))
    );
    assert_eq!(good["observedGeneration"], 3);
    assert_eq!(good["lastTransitionTime"], "now");
    let warned = condition(vec![problem("it is odd", Severity::Warning)]);
    assert_eq!(warned["status"], "True");
    assert_eq!(warned["message"], "spec.rules[0].to: it is odd; remove it");
    let problems = vec![
        problem("it is odd", Severity::Warning),
        problem("it is wrong", Severity::Error),
    ];
    let bad = condition(problems);
    assert_eq!(
        (&bad["status"], &bad["reason"]),
        (&json!("False"), &json!("Invalid"))
    );
    assert!(
        bad["message"]
            .as_str()
            .unwrap()
            .contains("it is wrong; remove it")
    );
}

#[test]
fn the_same_is_not_written_twice() {
    let policy = policy(3, Vec::new());
    let written = merged(&[], &policy, "then").unwrap();
    assert_eq!(merged(&written, &policy, "now"), None);
    // A schema without the field: the server drops it, and would drop it again.
    let mut dropped = written.clone();
    dropped[0]
        .as_object_mut()
        .unwrap()
        .remove("observedGeneration");
    assert_eq!(merged(&dropped, &policy, "now"), None);
    let newer = PolicyStatus {
        generation: 4,
        ..policy
    };
    let list = merged(&written, &newer, "now").unwrap();
    assert_eq!(list[0]["observedGeneration"], 4);
    assert_eq!(
        list[0]["lastTransitionTime"], "then",
        "it is as true as it was"
    );
    let broken = PolicyStatus {
        problems: vec![problem("it is wrong", Severity::Error)],
        ..newer
    };
    let list = merged(&list, &broken, "now").unwrap();
    assert_eq!(list[0]["lastTransitionTime"], "now");
}

#[test]
fn the_conditions_of_others_stay() {
    let theirs = json!({"type": "istio.io/WaypointAccepted", "status": "False", "reason": "x",
        "lastProbeTime": "2020-01-01T00:00:00Z"});
    let list = merged(std::slice::from_ref(&theirs), &policy(1, Vec::new()), "now").unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!(list[0], theirs);
    let changed = policy(1, vec![problem("it is wrong", Severity::Error)]);
    let list = merged(&list, &changed, "now").unwrap();
    assert_eq!((list.len(), &list[0]), (2, &theirs));
}

#[test]
fn a_long_message_is_cut_between_characters() {
    let long = problem(&"ä".repeat(MAX_MESSAGE), Severity::Error);
    let list = merged(&[], &policy(1, vec![long]), "now").unwrap();
    let length = list[0]["message"].as_str().unwrap().len();
    assert!((MAX_MESSAGE - 1..=MAX_MESSAGE).contains(&length));
}
