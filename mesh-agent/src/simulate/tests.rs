//! Recorded flows under other policies, and the least-privilege suggestion.

use std::path::Path;

use super::*;
use crate::config::read_objects;
use crate::model::build;
use crate::observe::Reporter;

const WORLD: &str = include_str!("../explain/testdata/world.yaml");
const PODS: &str = "security.istio.io";

/// The pods and Services of the world, with other policies.
fn world(policies: &str) -> World {
    let documents = WORLD.split("---\n").filter(|it| !it.contains(PODS));
    let rest: Vec<_> = documents.collect();
    let text = format!("{}---\n{policies}", rest.join("---\n"));
    let objects = read_objects(Path::new("world.yaml"), &text).unwrap();
    let built = build([&objects], "here", None);
    assert_eq!(built.problems, []);
    built.world
}

fn flow(source: &str, port: u16, allowed: bool) -> Flow {
    let ip = source.parse().ok();
    let identity = format!("spiffe://cluster.local/ns/shop/sa/{source}");
    Flow {
        reporter: Reporter::Destination,
        source_identity: ip.is_none().then_some(identity),
        source_ip: ip,
        destination: "shop/db".to_owned(),
        port,
        allowed,
        reason: (!allowed).then(|| "POLICY_DENIED".to_owned()),
        count: 3,
        last_seen_s: 100,
    }
}

/// Source and port of each.
fn named(changes: &[Change]) -> Vec<(String, u16)> {
    let source = |it: &Change| match (&it.source_identity, it.source_ip) {
        (Some(identity), _) => identity.rsplit('/').next().unwrap_or_default().to_owned(),
        (None, ip) => ip.map(|ip| ip.to_string()).unwrap_or_default(),
    };
    changes.iter().map(|it| (source(it), it.port)).collect()
}

const ALLOW_WEB: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]
  - from: [{source: {principals: [cluster.local/ns/shop/sa/nobody]}}]
  - from: [{source: {ipBlocks: [10.0.0.3]}}]
    to: [{operation: {ports: [\"99\"]}}]
";

#[test]
fn what_changes_is_told_and_what_does_not_is_not() {
    let flows = [
        flow("web", 80, true),
        flow("web", 81, false),
        flow("job", 80, true),
        flow("job", 99, true),
        flow("nosuch", 80, false),
        flow("203.0.113.9", 80, true),
    ];
    let it = simulate(&flows, &world(ALLOW_WEB));
    assert_eq!(it.judged, 6);
    assert_eq!(
        named(&it.newly_denied),
        [("203.0.113.9".into(), 80), ("job".into(), 80)]
    );
    assert_eq!(
        it.newly_denied[1].reason.as_deref(),
        Some("POLICY_NO_ALLOW")
    );
    assert!(
        it.newly_denied[1].detail.contains("sa/job"),
        "{:?}",
        it.newly_denied
    );
    assert_eq!(it.newly_denied[1].count, 3);
    // The address of job's pod is that of the candidate: a flow records identities alone.
    assert_eq!(named(&it.newly_allowed), [("web".into(), 81)]);
    assert_eq!(it.never_matched, ["shop/db spec.rules[1]"]);
    assert_eq!(it.unjudged, []);
}

#[test]
fn a_client_that_the_candidate_brings_into_the_mesh_has_an_identity() {
    let strict = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
";
    // 10.0.0.3 is job's, in the mesh; 10.0.0.4 is cron's, outside.
    let flows = [flow("10.0.0.3", 80, true), flow("10.0.0.4", 80, true)];
    let it = simulate(&flows, &world(strict));
    assert_eq!(named(&it.newly_denied), [("10.0.0.4".into(), 80)]);
    assert_eq!(
        it.newly_denied[0].reason.as_deref(),
        Some("PLAINTEXT_REFUSED")
    );
}

#[test]
fn the_last_verdict_counts_and_both_ends_are_one_flow() {
    let at = |last_seen_s, reporter, allowed| Flow {
        last_seen_s,
        reporter,
        ..flow("job", 80, allowed)
    };
    let flows = [
        at(10, Reporter::Source, true),
        at(20, Reporter::Source, false),
        at(15, Reporter::Destination, true),
    ];
    let it = simulate(&flows, &world(""));
    assert_eq!(it.judged, 1);
    assert_eq!(named(&it.newly_allowed), [("job".into(), 80)]);
    assert_eq!(
        it.newly_allowed[0].count, 6,
        "those of the source, seen twice by nobody"
    );
}

#[test]
fn what_cannot_be_judged_is_said() {
    let gone = Flow {
        destination: "shop/gone".to_owned(),
        ..flow("web", 80, true)
    };
    let nobody = Flow {
        source_identity: Some("nonsense".to_owned()),
        ..flow("web", 80, true)
    };
    let it = simulate(&[gone, nobody], &world(""));
    assert_eq!((it.judged, it.unjudged.len()), (0, 2));
}

#[test]
fn the_suggestion_lets_in_what_was_let_in_and_nothing_else() {
    let flows = [
        flow("web", 80, true),
        flow("web", 81, true),
        flow("job", 80, true),
        flow("job", 81, true),
        flow("web", 99, true),
        flow("evil", 80, false),
        flow("203.0.113.9", 80, true),
        flow("203.0.113.9", 81, true),
    ];
    let suggestion = simulate(&flows, &world("")).suggestion;
    let expected = "\
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: allow-db
  namespace: shop
spec:
  selector:
    matchLabels:
      app: db
  action: ALLOW
  rules:
  - from:
    - source:
        principals:
        - cluster.local/ns/shop/sa/job
        - cluster.local/ns/shop/sa/web
    - source:
        ipBlocks:
        - 203.0.113.9
    to:
    - operation:
        ports:
        - '80'
        - '81'
  - from:
    - source:
        principals:
        - cluster.local/ns/shop/sa/web
    to:
    - operation:
        ports:
        - '99'
";
    assert_eq!(suggestion, expected);
    let again = simulate(&flows, &world(&suggestion));
    assert_eq!((again.newly_denied, again.newly_allowed), (vec![], vec![]));
    assert!(again.never_matched.is_empty());
    let other = simulate(
        &[flow("evil", 80, true), flow("job", 99, true)],
        &world(&suggestion),
    );
    assert_eq!(
        named(&other.newly_denied),
        [("evil".into(), 80), ("job".into(), 99)]
    );
}
