//! What policy said of a connection: in its line, in the counters, among those that ended
//! last, and in the flows.

use super::*;
use crate::policy::{Decision, Denial, DryRun, Identity, PolicyRef, Would};

fn policy(name: &str) -> PolicyRef {
    PolicyRef {
        namespace: "shop".into(),
        name: name.into(),
    }
}

fn decision(outcome: Result<(), Denial>) -> Decision<()> {
    Decision {
        outcome,
        audited: vec![policy("watch")],
        dry_run: vec![DryRun {
            policy: policy("trial"),
            rule: Some(0),
            would: Would::Deny,
        }],
    }
}

fn denial() -> Denial {
    Denial::Policy {
        policy: policy("no"),
        rule: 2,
        identity: Identity::AbsentInPlaintext,
    }
}

#[test]
fn a_refusal_by_policy_is_in_the_line_and_can_be_found_again() {
    let bench = Bench::new();
    let connection = bench.open(Direction::Inbound);
    let id = connection.id();
    connection.judged(&decision(Err(denial())));
    assert!(bench.observer.find(id).unwrap().outcome.is_none());
    connection.finish_with(Outcome::Denied(denial().reason()), denial());

    let line = &bench.lines()[0];
    assert_eq!(line["reason"], "POLICY_DENIED");
    assert_eq!(line["policy"], "shop/no");
    assert_eq!(line["rule"], 2);
    assert_eq!(line["audit"], "shop/watch");
    assert_eq!(line["dry_run"], "deny by shop/trial spec.rules[0]");
    let account = bench.observer.find(id).unwrap();
    assert_eq!(account.outcome, Some(Outcome::Denied(Reason::PolicyDenied)));
    assert_eq!(account.detail.as_deref(), line["detail"].as_str());
    assert_eq!(account.ruling.unwrap().rule(), Some(2));

    let flows = bench.observer.flows();
    let [flow] = &flows[..] else {
        panic!("{flows:?}")
    };
    assert_eq!(flow.source_ip, Some(addr("10.1.0.5:0").ip()));
    assert_eq!(flow.destination, "shop/web-6d5f-x1");
    assert_eq!((flow.port, flow.allowed, flow.count), (80, false, 1));
    assert_eq!(flow.reason.as_deref(), Some("POLICY_DENIED"));
}

#[test]
fn what_is_audited_or_on_trial_is_counted_once_a_connection_without_its_name() {
    let bench = Bench::new();
    for _ in 0..2 {
        let mut connection = bench.open(Direction::Inbound);
        connection.judged(&decision(Ok(())));
        connection.established();
        connection.finish(Outcome::Ok);
    }
    bench.open(Direction::Inbound).finish(Outcome::Ok);
    let metrics = bench.registry.encode().unwrap();
    for expected in [
        "isthmus_connections_audited_total{direction=\"inbound\"} 2",
        "isthmus_connections_dry_run_total{direction=\"inbound\",would=\"deny\"} 2",
    ] {
        assert!(metrics.contains(expected), "no {expected} in {metrics}");
    }
    assert!(!metrics.contains("would=\"allow\""));
    assert!(!metrics.contains("shop/trial") && !metrics.contains("shop/watch"));
    assert_eq!(
        bench.observer.flows()[0].count,
        2,
        "the third was not judged"
    );
}

#[test]
fn an_outbound_flow_is_of_the_pods_identity_to_the_peer() {
    let bench = Bench::new();
    for (upstream, outcome) in [
        ("10.1.0.9:8080", Outcome::Ok),
        ("10.1.0.9:8081", Outcome::Failed(Reason::UpstreamDenied)),
        // Policy let it through: that nobody listened is none of its business.
        ("10.1.0.9:8082", Outcome::Failed(Reason::AppRefused)),
    ] {
        let connection = bench.open(Direction::Outbound);
        connection.set_upstream(addr(upstream));
        connection.set_peer(pod("db-0", "db"));
        connection.judged(&decision(Ok(())));
        connection.finish(outcome);
    }
    let flows = bench.observer.flows();
    let seen: Vec<_> = flows.iter().map(|it| (it.port, it.allowed)).collect();
    assert_eq!(seen, [(8080, true), (8081, false), (8082, true)]);
    for flow in &flows {
        let identity = flow.source_identity.as_deref();
        assert_eq!(identity, Some("spiffe://cluster.local/ns/shop/sa/web"));
        assert_eq!(flow.destination, "shop/db-0");
        assert_eq!(flow.source_ip, None);
    }
}

#[test]
fn the_last_4096_connections_are_remembered() {
    let bench = Bench::new();
    let ids: Vec<_> = (0..5000)
        .map(|_| {
            let connection = bench.open(Direction::Inbound);
            let id = connection.id();
            connection.finish(Outcome::Ok);
            id
        })
        .collect();
    let found = |id: &&ConnectionId| bench.observer.find(**id).is_some();
    assert_eq!(ids.iter().filter(found).count(), 4096);
    assert!(ids[5000 - 4096..].iter().all(|id| found(&id)));
}
