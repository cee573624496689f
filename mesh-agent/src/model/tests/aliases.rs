//! Further names of the mesh's trust domain: how they are read, and what they mean to the
//! policies that are in force.

use super::super::{Built, Severity};
use super::trust::{entry, root};
use super::{built, complaints, pod, rebuilt};
use crate::identity::TrustDomain;
use crate::identity::fixtures::TestCa;
use crate::policy::{InboundRequest, Peer, inbound};

fn mesh(spec: &str) -> String {
    format!(
        "---\napiVersion: isthmus.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: mesh}}\nspec:\n  trustDomain: prod.example\n{spec}\n"
    )
}

fn policy(spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {spec}\n{}",
        pod("web", "10.1.0.1")
    )
}

const DENY: &str =
    "{action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/a]}}]}]}";

fn aliases(built: &Built) -> Vec<&str> {
    let aliases = built.world.mesh().trust_domain_aliases.iter();
    aliases.map(TrustDomain::as_str).collect()
}

/// Whether this identity reaches `shop/web`, or what is said to it.
fn asked(built: &Built, from: &str) -> Result<(), String> {
    let destination = built.world.workload("shop/web").unwrap();
    let from = format!("spiffe://{from}").parse().unwrap();
    let ip = destination.addresses[0];
    let request = InboundRequest {
        destination,
        port: 80,
        destination_ip: ip,
        peer: Peer::Authenticated(&from),
        peer_ip: ip,
        client_ip: ip,
    };
    let decision = inbound(built.world.policies(), built.world.mesh(), &request);
    decision
        .outcome
        .map(drop)
        .map_err(|denial| denial.to_string())
}

#[test]
fn aliases_with_an_error_leave_those_in_force() {
    let good = built(&mesh("  trustDomainAliases: [old.example, old.example]"));
    assert_eq!(good.problems, []);
    assert_eq!(aliases(&good), ["old.example"]);
    let bad = mesh("  trustDomainAliases: [new.example, OLD]");
    let after = rebuilt(&good.world, &bad);
    assert!(complaints(&after)[0].contains("spec.trustDomainAliases[1]"));
    assert_eq!(aliases(&after), ["old.example"]);
    assert_eq!(aliases(&built(&bad)), ["new.example"]);
}

#[test]
fn alias_without_roots_is_trusted_no_further() {
    let yaml = mesh("  trustDomainAliases: [old.example]") + &policy("{rules: [{}]}");
    let built = built(&yaml);
    assert_eq!(asked(&built, "prod.example/ns/shop/sa/a"), Ok(()));
    let refused = asked(&built, "old.example/ns/shop/sa/a").unwrap_err();
    assert!(refused.contains("trust domain old.example"), "{refused}");
}

#[test]
fn alias_with_roots_is_matched_by_every_name_of_the_mesh() {
    let ca = TestCa::new("old.example");
    let mesh = mesh(&format!(
        "  trustDomainAliases: [old.example]\n  caCertificates:\n{}",
        entry("[old.example]", &root(&ca), None)
    ));
    let built = built(&(mesh + &policy(DENY)));
    assert_eq!(built.problems, []);
    for domain in ["prod.example", "old.example"] {
        let denied = asked(&built, &format!("{domain}/ns/shop/sa/a")).unwrap_err();
        assert!(denied.contains("shop/p denies"), "{denied}");
        assert_eq!(asked(&built, &format!("{domain}/ns/shop/sa/b")), Ok(()));
    }
}

#[test]
fn deny_of_cluster_local_is_of_both_where_another_mesh_has_that_name() {
    let ca = TestCa::new("cluster.local");
    let mesh = mesh(&format!(
        "  caCertificates:\n{}",
        entry("[cluster.local]", &root(&ca), None)
    ));
    let denying = built(&(mesh.clone() + &policy(DENY)));
    let allowing = built(&(mesh + &policy(&DENY.replace("DENY", "ALLOW"))));
    for (from, is_local) in [("prod.example", true), ("cluster.local", false)] {
        let from = format!("{from}/ns/shop/sa/a");
        assert!(asked(&denying, &from).is_err(), "{from}");
        assert_eq!(asked(&allowing, &from).is_ok(), is_local, "{from}");
    }
}

#[test]
fn last_good_version_of_a_policy_is_of_the_trust_domain_of_today() {
    let good = built(&policy(DENY));
    assert!(asked(&good, "cluster.local/ns/shop/sa/a").is_err());
    let broken = DENY.replace("rules: [", "rules: [{to: [{operation: {ports: [x]}}]}, ");
    let after = rebuilt(&good.world, &(mesh("") + &policy(&broken)));
    let denied = asked(&after, "prod.example/ns/shop/sa/a").unwrap_err();
    assert!(denied.contains("shop/p denies"), "{denied}");
    assert_eq!(asked(&after, "prod.example/ns/shop/sa/b"), Ok(()));
}

#[test]
fn nearest_miss_shows_principals_as_written() {
    let built = built(&(mesh("") + &policy(&DENY.replace("DENY", "ALLOW"))));
    let denied = asked(&built, "prod.example/ns/shop/sa/b").unwrap_err();
    let expected = "wants one of [cluster.local/ns/shop/sa/a] and saw prod.example/ns/shop/sa/b";
    assert!(denied.contains(expected), "{denied}");
}

#[test]
fn deny_that_can_never_match_is_an_error() {
    let never = DENY.replace("cluster.local", "nobody.example");
    let built = built(&policy(&never));
    let [problem] = &built.problems[..] else {
        panic!("{:#?}", built.problems)
    };
    assert_eq!(problem.severity, Severity::Error);
    assert_eq!(problem.field, "spec.rules[0]");
    assert!(problem.message.contains("denies nothing"), "{problem}");
}
