//! SPIFFE IDs by a template: what pods are called, and what policies make of it.

use super::super::Built;
use super::trust::{entry, root};
use super::{built, complaints, pod, rebuilt};
use crate::identity::SpiffeId;
use crate::identity::fixtures::TestCa;
use crate::policy::{InboundRequest, Peer, inbound};

fn mesh(spec: &str) -> String {
    format!(
        "---\napiVersion: isthmus.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: mesh}}\nspec:\n{spec}\n"
    )
}

const TEMPLATE: &str = "  spiffeIdTemplate: /k8s/{namespace}/{serviceAccount}/{podName}";

fn identity(built: &Built, uid: &str) -> String {
    built.world.workload(uid).unwrap().identity.to_string()
}

fn policy(spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {spec}\n"
    )
}

/// Whether the peer with this ID reaches `shop/web`.
fn asked(built: &Built, from: &str) -> bool {
    let mesh = built.world.mesh();
    let from: SpiffeId = mesh.id_forms.parse(from).unwrap();
    let destination = built.world.workload("shop/web").unwrap();
    let ip = destination.addresses[0];
    let request = InboundRequest {
        destination,
        port: 80,
        destination_ip: ip,
        peer: Peer::Authenticated(&from),
        peer_ip: ip,
        client_ip: ip,
    };
    inbound(built.world.policies(), mesh, &request)
        .outcome
        .is_ok()
}

#[test]
fn pods_have_identities_of_the_template() {
    let pods = pod("web", "10.0.0.1") + &pod("db", "10.0.0.2");
    let before = built(&pods);
    assert_eq!(
        identity(&before, "shop/web"),
        "spiffe://cluster.local/ns/shop/sa/default"
    );
    let after = rebuilt(&before.world, &(mesh(TEMPLATE) + &pods));
    assert_eq!(after.problems, []);
    assert_eq!(
        identity(&after, "shop/web"),
        "spiffe://cluster.local/k8s/shop/default/web"
    );
    assert_eq!(
        identity(&after, "shop/db"),
        "spiffe://cluster.local/k8s/shop/default/db"
    );
}

#[test]
fn template_with_an_error_leaves_the_one_in_force() {
    let pods = pod("web", "10.0.0.1");
    let good = built(&(mesh(TEMPLATE) + &pods));
    let wrong = mesh("  spiffeIdTemplate: /k8s/{namespace}") + &pods;
    let after = rebuilt(&good.world, &wrong);
    let said = complaints(&after);
    assert!(
        said[0].starts_with("MeshConfig mesh: spec.spiffeIdTemplate: {serviceAccount}"),
        "{said:?}"
    );
    assert_eq!(identity(&after, "shop/web"), identity(&good, "shop/web"));
    assert_eq!(
        identity(&built(&wrong), "shop/web"),
        "spiffe://cluster.local/ns/shop/sa/default"
    );
}

#[test]
fn pods_of_another_mesh_have_identities_of_its_template() {
    let ca = TestCa::new("other.example");
    let entry = entry("[other.example]", &root(&ca), None);
    let template = "    spiffeIdTemplate: /{serviceAccount}.{namespace}";
    let wrong = mesh(&format!("  caCertificates:\n{entry}{template}\n"));
    let said = complaints(&built(&wrong));
    let field = "spec.caCertificates[0].spiffeIdTemplate";
    assert!(said[0].contains(field), "{said:?}");

    let template = "    spiffeIdTemplate: /x/{serviceAccount}/{namespace}";
    let far = pod("far", "10.0.0.9")
        .replace("node-a", "elsewhere")
        .replace(
            "annotations: {",
            "annotations: {isthmus.dev/trust-domain: other.example, ",
        );
    let mesh = mesh(&format!("  caCertificates:\n{entry}{template}\n"));
    let built = built(&(mesh + &far + &pod("web", "10.0.0.1")));
    assert_eq!(complaints(&built), [""; 0]);
    assert_eq!(
        identity(&built, "shop/far"),
        "spiffe://other.example/x/default/shop"
    );
    assert_eq!(
        identity(&built, "shop/web"),
        "spiffe://cluster.local/ns/shop/sa/default"
    );
}

#[test]
fn two_templates_of_one_mesh_are_an_error() {
    let ca = TestCa::new("other.example");
    let entry = entry("[other.example]", &root(&ca), None);
    let form = "    spiffeIdTemplate: /x/{serviceAccount}/{namespace}\n";
    let mesh = mesh(&format!("  caCertificates:\n{entry}{form}{entry}"));
    let said = complaints(&built(&mesh));
    assert!(
        said[0].contains("caCertificates[1].spiffeIdTemplate"),
        "{said:?}"
    );
}

/// Names come from the ID, principals are compared with the ID as it is. Rules of many other
/// principals beside each stand in the index.
#[test]
fn policies_match_identities_of_a_template() {
    let base = mesh(TEMPLATE) + &pod("web", "10.0.0.1");
    let from = "spiffe://cluster.local/k8s/x/a/a-1";
    for (source, matches) in [
        ("namespaces: [x]", true),
        ("namespaces: [k8s]", false),
        ("serviceAccounts: [x/a]", true),
        ("serviceAccounts: [x/b]", false),
        ("principals: [cluster.local/k8s/x/a/a-1]", true),
        ("principals: [cluster.local/k8s/x/a/a-2]", false),
        ("principals: ['cluster.local/k8s/x/*']", true),
        ("principals: ['*/a-1']", true),
        ("principals: ['cluster.local/ns/x/sa/a']", false),
        ("principals: ['cluster.local/ns/x/*']", false),
        ("principals: ['*/sa/a']", false),
        ("trustDomains: [cluster.local]", true),
        ("notPrincipals: [cluster.local/k8s/x/a/a-1]", false),
    ] {
        let rule = format!("{{from: [{{source: {{{source}}}}}]}}");
        let other = "{from: [{source: {principals: [cluster.local/ns/y/sa/y]}}]}";
        let allow = policy(&format!("{{rules: [{rule}, {other}]}}"));
        assert_eq!(
            asked(&built(&(base.clone() + &allow)), from),
            matches,
            "{source}"
        );
        let deny = policy(&format!("{{action: DENY, rules: [{rule}]}}"));
        assert_eq!(
            asked(&built(&(base.clone() + &deny)), from),
            !matches,
            "{source}"
        );
    }
}

#[test]
fn deny_of_istios_form_is_an_error_where_ids_have_another() {
    let base = mesh(&format!("  trustDomain: prod.example\n{TEMPLATE}"));
    for (principal, is_possible) in [
        ("prod.example/ns/x/sa/a", false),
        ("cluster.local/ns/x/sa/a", false),
        ("prod.example/k8s/x/a/a-1", true),
        ("cluster.local/k8s/x/a/a-1", true),
    ] {
        let deny = format!(
            "{{action: DENY, rules: [{{from: [{{source: {{principals: [{principal}]}}}}]}}]}}"
        );
        let built = built(&(base.clone() + &pod("web", "10.0.0.1") + &policy(&deny)));
        let said = complaints(&built);
        assert_eq!(said.is_empty(), is_possible, "{principal}: {said:?}");
        if !is_possible {
            assert!(said[0].contains("spiffeIdTemplate"), "{said:?}");
        }
    }
    let accounts = "{action: DENY, rules: [{from: [{source: {serviceAccounts: [x/a]}}]}]}";
    assert_eq!(complaints(&built(&(base + &policy(accounts)))), [""; 0]);
}
