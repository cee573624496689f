//! The mesh-wide settings and the resources that are not enforced.

use super::super::{MtlsMode, Objects, build};
use super::{NODE, built, complaints, objects, rebuilt};

fn peer_authentication(name: &str, namespace: &str, created: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: {name}, namespace: {namespace}{created}}}
spec: {spec}
"
    )
}

fn mesh_config(name: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: isthmus.dev/v1alpha1
kind: MeshConfig
metadata: {{name: {name}}}
spec: {spec}
"
    )
}

#[test]
fn the_mesh_wide_mode() {
    for (spec, expected) in [
        ("{mtls: {mode: STRICT}}", MtlsMode::Strict),
        (
            "{selector: {matchLabels: {}}, mtls: {mode: STRICT}}",
            MtlsMode::Strict,
        ),
        ("{mtls: {mode: PERMISSIVE}}", MtlsMode::Permissive),
        ("{mtls: {mode: UNSET}}", MtlsMode::Permissive),
        ("{mtls: {mode: DISABLE}}", MtlsMode::Permissive),
        ("{mtls: {}}", MtlsMode::Permissive),
        ("{}", MtlsMode::Permissive),
    ] {
        let built = built(&peer_authentication("default", "istio-system", "", spec));
        assert_eq!(built.problems, [], "{spec}");
        assert_eq!(built.world.mesh().inbound_mode, expected, "{spec}");
    }
    assert_eq!(built("").world.mesh().inbound_mode, MtlsMode::Permissive);
}

#[test]
fn rules_that_are_not_mesh_wide_are_reported_and_do_nothing() {
    let strict = "mtls: {mode: STRICT}";
    for (namespace, spec, field) in [
        ("shop", format!("{{{strict}}}"), "metadata.namespace"),
        (
            "istio-system",
            format!("{{{strict}, selector: {{matchLabels: {{app: web}}}}}}"),
            "spec.selector",
        ),
        (
            "istio-system",
            format!("{{{strict}, portLevelMtls: {{80: {{mode: DISABLE}}}}}}"),
            "spec.portLevelMtls",
        ),
    ] {
        let built = built(&peer_authentication("rule", namespace, "", &spec));
        let [problem] = &built.problems[..] else {
            panic!("{:?}", built.problems)
        };
        assert_eq!(problem.field, field);
        assert!(
            problem
                .message
                .starts_with("not enforced by this version of Isthmus"),
            "{problem}"
        );
        assert_eq!(
            problem.object.as_deref(),
            Some(&*format!("PeerAuthentication {namespace}/rule"))
        );
        assert_eq!(
            built.world.mesh().inbound_mode,
            MtlsMode::Permissive,
            "{spec}"
        );
    }
}

#[test]
fn of_two_mesh_wide_rules_the_oldest_then_the_first_by_name_holds() {
    let old = ", creationTimestamp: 2024-01-01T00:00:00Z";
    let new = ", creationTimestamp: 2025-01-01T00:00:00Z";
    for (strict, permissive, expected) in [
        (("a", new), ("b", old), MtlsMode::Permissive),
        (("b", old), ("a", new), MtlsMode::Strict),
        (("b", old), ("a", ""), MtlsMode::Strict),
        (("a", old), ("b", old), MtlsMode::Strict),
        (("b", ""), ("a", ""), MtlsMode::Permissive),
    ] {
        let of = |(name, created), mode| {
            peer_authentication(
                name,
                "istio-system",
                created,
                &format!("{{mtls: {{mode: {mode}}}}}"),
            )
        };
        let built = built(&(of(strict, "STRICT") + &of(permissive, "PERMISSIVE")));
        assert_eq!(
            built.world.mesh().inbound_mode,
            expected,
            "{strict:?} {permissive:?}"
        );
        let [problem] = &built.problems[..] else {
            panic!("{:?}", built.problems)
        };
        assert!(
            problem.message.ends_with("this one has no effect"),
            "{problem}"
        );
    }
}

#[test]
fn a_policy_that_cannot_be_read_counts_as_strict_unless_one_is_known() {
    let unread = Objects {
        policy_unknown: true,
        ..Objects::default()
    };
    let alone = build([&unread], NODE, None);
    assert_eq!(alone.world.mesh().inbound_mode, MtlsMode::Strict);
    let rule = peer_authentication("default", "istio-system", "", "{mtls: {mode: PERMISSIVE}}");
    let with_rule = build([&unread, &objects("rule.yaml", &rule)], NODE, None);
    assert_eq!(with_rule.world.mesh().inbound_mode, MtlsMode::Permissive);
}

#[test]
fn mesh_config_sets_the_trust_domain_and_the_root_namespace() {
    let built = built(&format!(
        "{}{}",
        mesh_config("mesh", "{trustDomain: shop.example, rootNamespace: root}"),
        peer_authentication("default", "root", "", "{mtls: {mode: STRICT}}")
    ));
    assert_eq!(built.problems, []);
    let mesh = built.world.mesh();
    assert_eq!(mesh.trust_domain.as_str(), "shop.example");
    assert_eq!(mesh.inbound_mode, MtlsMode::Strict);
}

#[test]
fn a_mesh_config_that_does_not_count_is_reported() {
    let first = built(&mesh_config("mesh", "{trustDomain: a.example}"));
    let second = rebuilt(
        &first.world,
        &mesh_config("mesh", "{trustDomain: Not_Valid}"),
    );
    assert_eq!(second.world.mesh().trust_domain.as_str(), "a.example");
    assert_eq!(second.problems[0].field, "spec.trustDomain");

    let other = built(&mesh_config("mush", "{trustDomain: a.example}"));
    assert_eq!(other.world.mesh().trust_domain.as_str(), "cluster.local");
    assert_eq!(other.problems[0].field, "metadata.name");

    let two = mesh_config("mesh", "{trustDomain: a.example}")
        + &mesh_config("mesh", "{trustDomain: b.example}");
    let two = built(&two);
    assert_eq!(two.world.mesh().trust_domain.as_str(), "a.example");
    assert_eq!(
        complaints(&two),
        [
            "MeshConfig mesh: metadata.name: there is one already in mesh.yaml (object 1); this one has no effect"
        ]
    );
}

#[test]
fn what_is_not_enforced_is_said_and_what_does_not_concern_us_is_not() {
    let resource = |version: &str, kind: &str| {
        format!(
            "---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: it, namespace: shop}}\nspec: {{any: thing}}\n"
        )
    };
    for (version, kind, expected) in [
        ("security.istio.io/v1", "AuthorizationPolicy", true),
        ("security.istio.io/v1", "RequestAuthentication", true),
        ("networking.istio.io/v1", "Gateway", true),
        ("networking.istio.io/v1alpha3", "VirtualService", true),
        ("networking.istio.io/v1", "Sidecar", true),
        ("gateway.networking.k8s.io/v1", "HTTPRoute", true),
        ("v1", "Secret", false),
        ("v1", "ConfigMap", false),
        ("v1", "Node", false),
        ("apps/v1", "Deployment", false),
        ("serving.knative.dev/v1", "Service", false),
    ] {
        let complaints = complaints(&built(&resource(version, kind)));
        let sentence = format!(
            "{kind} shop/it: kind: {kind} is not enforced by this version of Isthmus: it has no effect"
        );
        let expected = if expected { vec![sentence] } else { vec![] };
        assert_eq!(complaints, expected, "{version} {kind}");
    }
}
