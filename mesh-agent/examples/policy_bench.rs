//! How long a verdict takes among many policies, and how that grows. Run by
//! `cargo xtask bench policy`.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh_agent::identity::SpiffeId;
use mesh_agent::model::{
    AuthorizationPolicy, AuthorizationPolicySpec, LabelSelector, Objects, Origin, PolicyRule,
    RuleFrom, Source, Sourced, World, build,
};
use mesh_agent::policy::{InboundRequest, Peer, inbound};

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
const RULES: usize = 10;
/// How long each figure is measured.
const SPAN: Duration = Duration::from_millis(300);

/// How the policies lie.
#[derive(Clone, Copy)]
enum Layout {
    /// Ten to a namespace, each for one app.
    Spread,
    /// All for one workload, each rule for another identity.
    OneWorkload,
    /// The same, with prefixes that the identity has too, but for the last letters.
    Prefixes,
}

fn main() {
    println!(
        "ALLOW policies of {RULES} rules; time of one verdict, and how many times that of 10 policies"
    );
    for (layout, what) in [
        (Layout::Spread, "spread over namespaces, one app each"),
        (
            Layout::OneWorkload,
            "all select the destination, exact identities",
        ),
        (
            Layout::Prefixes,
            "all select the destination, prefixes (worst case)",
        ),
    ] {
        println!("\n{what}");
        println!(
            "{:>9} {:>12} {:>7} {:>12} {:>7} {:>10}",
            "policies", "allowed", "", "refused", "", "build"
        );
        let mut first = None;
        for policies in SIZES {
            let started = Instant::now();
            let world = world(policies, layout);
            let built = started.elapsed();
            let allowed = verdict(
                &world,
                &format!("spiffe://cluster.local/ns/c/sa/a{}-9", policies - 1),
                true,
            );
            let refused = verdict(&world, "spiffe://cluster.local/ns/c/sa/none", false);
            let (a, r) = *first.get_or_insert((allowed, refused));
            println!(
                "{policies:>9} {allowed:>9.0} ns {:>6.1}x {refused:>9.0} ns {:>6.1}x {:>7} ms",
                allowed / a,
                refused / r,
                built.as_millis()
            );
        }
    }
}

/// Nanoseconds of one verdict.
fn verdict(world: &World, identity: &str, expected: bool) -> f64 {
    let identity: SpiffeId = identity.parse().expect("an identity");
    let ip = "10.1.0.9".parse().expect("an address");
    let destination = world.workload("n0/web").expect("the destination");
    let request = InboundRequest {
        destination,
        port: 80,
        destination_ip: destination.addresses[0],
        peer: Peer::Authenticated(&identity),
        peer_ip: ip,
        client_ip: ip,
    };
    let ask = || inbound(world.policies(), world.mesh(), black_box(&request)).outcome;
    assert_eq!(
        ask().is_ok(),
        expected,
        "the bench does not measure what it says"
    );
    let started = Instant::now();
    let mut verdicts = 0_u32;
    while started.elapsed() < SPAN {
        for _ in 0..100 {
            let _ = black_box(ask());
        }
        verdicts += 100;
    }
    started.elapsed().as_nanos() as f64 / f64::from(verdicts)
}

fn world(policies: usize, layout: Layout) -> World {
    let pod = "apiVersion: v1
kind: Pod
metadata: {name: web, namespace: n0, labels: {isthmus.dev/mesh: enabled, app: a9}}
spec: {nodeName: other}
status: {podIP: 10.1.0.1}
";
    let pod = mesh_agent::config::read_objects(Path::new("pod.yaml"), pod).expect("a pod");
    let written = (0..policies).map(|number| Sourced {
        object: policy(number, policies, layout),
        origin: Origin::new(Path::new("policies.yaml"), number + 1),
    });
    let objects = Objects {
        authorization_policies: written.collect(),
        ..Objects::default()
    };
    let built = build([&pod, &objects], "here", None);
    assert!(built.problems.is_empty(), "{:?}", built.problems.first());
    built.world
}

fn policy(number: usize, of: usize, layout: Layout) -> AuthorizationPolicy {
    let (namespace, app) = match layout {
        // The last policy is the destination's.
        Layout::Spread => ((of - 1 - number) / 10, format!("a{}", number % 10)),
        Layout::OneWorkload | Layout::Prefixes => (0, "a9".to_owned()),
    };
    let principal = |rule| match layout {
        Layout::Prefixes => format!("cluster.local/ns/c/sa/a{number}-{rule}*"),
        _ => format!("cluster.local/ns/c/sa/a{number}-{rule}"),
    };
    let rule = |rule| PolicyRule {
        from: Some(vec![RuleFrom {
            source: Source {
                principals: vec![principal(rule)],
                ..Source::default()
            },
        }]),
        ..PolicyRule::default()
    };
    AuthorizationPolicy {
        api_version: "security.istio.io/v1".to_owned(),
        kind: "AuthorizationPolicy".to_owned(),
        metadata: ObjectMeta {
            name: Some(format!("p{number}")),
            namespace: Some(format!("n{namespace}")),
            ..ObjectMeta::default()
        },
        spec: AuthorizationPolicySpec {
            selector: Some(LabelSelector {
                match_labels: BTreeMap::from([("app".to_owned(), app)]),
            }),
            rules: (0..RULES).map(rule).collect(),
            ..AuthorizationPolicySpec::default()
        },
        status: Default::default(),
    }
}
