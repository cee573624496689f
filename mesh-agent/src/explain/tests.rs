//! What is said of each kind of connection, and that both sides and the nearest miss are
//! those of the policy itself.

use std::path::Path;

use super::*;
use crate::config::read_objects;
use crate::model::build;
use crate::observe::{Account, ConnectionId, Direction, Outcome, PodLabels, Reason, Ruling};

const WORLD: &str = include_str!("testdata/world.yaml");

fn world() -> World {
    let objects = read_objects(Path::new("world.yaml"), WORLD).unwrap();
    let built = build([&objects], "here", None);
    assert_eq!(built.problems, []);
    built.world
}

fn asked(world: &World, from: &str, to: &str, port: Option<u16>) -> Explanation {
    let query = Query::new(from, to, port).unwrap();
    would(&scene(world), &query).unwrap()
}

fn scene(world: &World) -> Scene<'_> {
    Scene {
        world,
        generation: 7,
        complete: true,
        stale: None,
    }
}

#[test]
fn a_table_of_verdicts() {
    let world = world();
    for (from, to, port, verdict, source, destination) in [
        (
            "shop/web",
            "shop/db",
            Some(5432),
            Verdict::Allowed,
            Some(""),
            Some(""),
        ),
        (
            "shop/web",
            "10.0.0.2:5432",
            None,
            Verdict::Allowed,
            Some(""),
            Some(""),
        ),
        (
            "shop/web",
            "shop/db",
            Some(22),
            Verdict::Denied,
            Some("POLICY_NO_ALLOW"),
            Some("POLICY_NO_ALLOW"),
        ),
        (
            "shop/job",
            "shop/db",
            Some(5432),
            Verdict::Denied,
            Some("POLICY_DENIED"),
            Some("POLICY_DENIED"),
        ),
        // A pod outside the mesh has no agent, and comes in plaintext.
        (
            "old/cron",
            "shop/db",
            Some(5432),
            Verdict::Denied,
            None,
            Some("PLAINTEXT_REFUSED"),
        ),
        (
            "old/cron",
            "shop/web",
            Some(80),
            Verdict::Allowed,
            None,
            Some(""),
        ),
        (
            "shop/web",
            "old/cron",
            Some(80),
            Verdict::Allowed,
            Some(""),
            None,
        ),
        (
            "shop/web",
            "203.0.113.9:443",
            None,
            Verdict::Allowed,
            Some(""),
            None,
        ),
        // One port, so it need not be said; the target port is another.
        (
            "shop/web",
            "shop/store",
            None,
            Verdict::Allowed,
            Some(""),
            Some(""),
        ),
        (
            "shop/web",
            "10.1.0.1:99",
            None,
            Verdict::Denied,
            Some("SERVICE_NO_PORT"),
            None,
        ),
        (
            "shop/web",
            "shop/nobody",
            Some(80),
            Verdict::Denied,
            Some("SERVICE_NO_ENDPOINT"),
            None,
        ),
        (
            "shop/web",
            "shop/web",
            Some(80),
            Verdict::Allowed,
            Some(""),
            None,
        ),
    ] {
        let it = asked(&world, from, to, port);
        let what = format!("{from} -> {to} {port:?}: {it:#?}");
        assert_eq!(it.verdict, verdict, "{what}");
        let [way] = &it.ways[..] else {
            panic!("{what}")
        };
        let reason = |side: &Option<Side>| {
            let side = side.as_ref()?;
            assert_eq!(side.allowed, side.reason.is_none(), "{what}");
            assert_eq!(side.allowed, side.cure.is_none(), "{what}");
            Some(side.reason.clone().unwrap_or_default())
        };
        assert_eq!(reason(&way.source).as_deref(), source, "{what}");
        assert_eq!(reason(&way.destination).as_deref(), destination, "{what}");
    }
}

/// Nothing of the cluster's own ranges is reached in plaintext unless it is certain that no pod
/// has the address; an endpoint of a Service is an address that the configuration names.
#[test]
fn unlisted_address_is_refused_in_a_declared_range_always_and_in_another_while_stale() {
    let declared = "
apiVersion: isthmus.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {clusterRanges: [10.0.0.0/16, 10.1.0.0/16]}
---
";
    let derived = "
apiVersion: v1
kind: Node
metadata: {name: there}
spec: {podCIDRs: [10.0.0.0/16]}
---
";
    let by_hand = "
---
apiVersion: v1
kind: Service
metadata: {name: old, namespace: shop}
spec: {clusterIP: 10.1.0.9, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: old-1, namespace: shop, labels: {kubernetes.io/service-name: old}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [10.0.77.1], conditions: {ready: true}}]
";
    let staleness = Staleness {
        seconds: 12,
        cause: "pods: refused".into(),
    };
    for (head, stale, to, expected) in [
        (declared, false, "10.0.77.1:80", Verdict::Denied),
        (declared, true, "10.0.77.1:80", Verdict::Denied),
        (declared, true, "10.2.0.1:80", Verdict::Allowed),
        (declared, false, "10.0.0.4:80", Verdict::Allowed),
        (declared, false, "10.1.0.9:80", Verdict::Allowed),
        (declared, true, "10.1.0.9:80", Verdict::Denied),
        (derived, false, "10.0.77.1:80", Verdict::Allowed),
        (derived, true, "10.0.77.1:80", Verdict::Denied),
        (derived, true, "10.1.0.9:80", Verdict::Denied),
        (derived, false, "10.1.0.9:80", Verdict::Allowed),
        (derived, true, "10.0.0.4:80", Verdict::Allowed),
        (derived, true, "203.0.113.9:80", Verdict::Allowed),
    ] {
        let text = format!("{head}{WORLD}{by_hand}");
        let objects = read_objects(Path::new("world.yaml"), &text).unwrap();
        let world = build([&objects], "here", None).world;
        let scene = Scene {
            stale: stale.then_some(&staleness),
            ..scene(&world)
        };
        let it = would(&scene, &Query::new("shop/web", to, None).unwrap()).unwrap();
        let what = format!("{head} {stale} {to}: {it:#?}");
        assert_eq!(it.verdict, expected, "{what}");
        let side = it.ways[0].source.as_ref().unwrap();
        if expected == Verdict::Denied {
            assert_eq!(
                side.reason.as_deref(),
                Some("DESTINATION_UNKNOWN"),
                "{what}"
            );
            assert_eq!(
                side.detail
                    .contains("disconnected for 12 s (pods: refused)"),
                stale,
                "{what}"
            );
        }
    }
}

#[test]
fn the_rule_that_decided_is_named() {
    let world = world();
    let it = asked(&world, "shop/web", "shop/db", Some(5432));
    let side = it.ways[0].destination.clone().unwrap();
    assert_eq!(
        (side.policy.as_deref(), side.rule),
        (Some("shop/db"), Some(1))
    );
    assert_eq!(it.ways[0].mode.as_ref().unwrap().mode, "STRICT");
    let from = &it.ways[0].mode.as_ref().unwrap().from;
    assert_eq!(from, "PeerAuthentication shop/db");
    assert_eq!(it.ways[0].transport.as_deref(), Some("mutual_tls"));
    assert_eq!(
        it.ways[0].identity.as_deref(),
        Some("spiffe://cluster.local/ns/shop/sa/db")
    );
    assert_eq!(side.dry_run, ["deny by shop/trial spec.rules[0]"]);
    assert_eq!(side.audited, ["shop/watch"]);

    let it = asked(&world, "shop/job", "shop/db", Some(5432));
    let side = it.ways[0].source.clone().unwrap();
    assert_eq!(
        (side.policy.as_deref(), side.rule),
        (Some("shop/no-jobs"), Some(0))
    );
    assert!(
        side.detail.contains("cluster.local/ns/shop/sa/job"),
        "{}",
        side.detail
    );

    let it = asked(&world, "shop/web", "shop/db", Some(22));
    let nearest = it.ways[0].destination.clone().unwrap().nearest.unwrap();
    assert_eq!((&*nearest.policy, nearest.rule), ("shop/db", Some(1)));
    assert_eq!(nearest.field, "to[0].operation.ports");
    assert_eq!(nearest.seen, "22");
}

#[test]
fn who_has_no_identity_is_told_why() {
    let world = world();
    let it = asked(&world, "old/cron", "shop/db", Some(5432));
    assert_eq!(it.asked.identity, None);
    assert_eq!(it.asked.no_identity.as_deref(), Some(NOT_MESHED));
    assert_eq!(it.ways[0].transport.as_deref(), Some("plaintext"));
}

#[test]
fn while_the_configuration_is_not_complete_the_outside_is_refused() {
    let world = world();
    let scene = Scene {
        complete: false,
        stale: None,
        ..scene(&world)
    };
    let query = Query::new("shop/web", "203.0.113.9:443", None).unwrap();
    let it = would(&scene, &query).unwrap();
    let side = it.ways[0].source.clone().unwrap();
    assert_eq!(side.reason.as_deref(), Some("DESTINATION_UNKNOWN"));
    assert!(!it.complete);
}

#[test]
fn what_the_configuration_does_not_know_is_said() {
    let world = world();
    for (from, to, port, expected) in [
        (
            "shop/gone",
            "shop/db",
            Some(1),
            ExplainError::NoPod("shop/gone".into()),
        ),
        (
            "shop/web",
            "shop/gone",
            Some(1),
            ExplainError::NoDestination("shop/gone".into()),
        ),
        (
            "shop/web",
            "shop/db",
            None,
            ExplainError::NoPort("shop/db".into()),
        ),
    ] {
        let query = Query::new(from, to, port).unwrap();
        assert_eq!(would(&scene(&world), &query), Err(expected));
    }
}

fn account(direction: Direction, from: &str, to: &str) -> Account {
    let pod = PodLabels {
        name: if direction == Direction::Inbound {
            "db"
        } else {
            "job"
        }
        .into(),
        namespace: "shop".into(),
        workload: "x".into(),
        identity: "spiffe://cluster.local/ns/shop/sa/job".into(),
        app: None,
        version: None,
    };
    Account {
        id: ConnectionId(1),
        direction,
        pod: Arc::new(pod),
        source: from.parse().unwrap(),
        destination: to.parse().unwrap(),
        client: None,
        peer_identity: None,
        security: None,
        ruling: Some(Ruling::default()),
        outcome: Some(Outcome::Ok),
        detail: None,
    }
}

#[test]
fn one_that_happened_is_judged_by_the_policies_of_now() {
    let world = world();
    let scene = scene(&world);
    let outbound = account(Direction::Outbound, "10.0.0.3:4000", "10.1.0.1:3306");
    let it = past(&scene, &outbound);
    assert_eq!(it.verdict, Verdict::Denied, "{it:#?}");
    assert_eq!(it.happened.unwrap().outcome, "ok", "it was let in then");
    assert_eq!(it.ways[0].address, "10.0.0.2:5432");

    let plain = account(Direction::Inbound, "10.0.0.4:4000", "10.0.0.2:5432");
    let it = past(&scene, &plain);
    let side = it.ways[0].destination.clone().unwrap();
    assert_eq!(side.reason.as_deref(), Some("PLAINTEXT_REFUSED"));
    assert_eq!(it.asked.pod.as_deref(), Some("old/cron"));
    assert_eq!(it.asked.no_identity.as_deref(), Some(NOT_MESHED));

    let meshed = Account {
        peer_identity: Some("spiffe://cluster.local/ns/shop/sa/web".into()),
        ..account(Direction::Inbound, "10.0.0.1:4000", "10.0.0.2:5432")
    };
    let it = past(&scene, &meshed);
    assert_eq!(it.verdict, Verdict::Allowed, "{it:#?}");
    assert_eq!(it.ways[0].transport.as_deref(), Some("mutual_tls"));
}

#[test]
fn where_policy_was_not_asked_nothing_is_made_up() {
    let world = world();
    let failed = Account {
        ruling: None,
        outcome: Some(Outcome::Denied(Reason::TlsNoClientCert)),
        ..account(Direction::Inbound, "203.0.113.9:4000", "10.0.0.2:15008")
    };
    let it = past(&scene(&world), &failed);
    assert_eq!(it.verdict, Verdict::Unknown);
    assert!(it.ways.is_empty());
    assert!(
        it.asked
            .no_identity
            .unwrap()
            .contains("did not come so far")
    );
    let happened = it.happened.unwrap();
    assert_eq!(happened.reason.as_deref(), Some("TLS_NO_CLIENT_CERT"));
    assert!(happened.cure.is_some() && happened.policy.is_none());
}
