//! The mesh-wide settings and the resources that are not enforced.

use super::super::{MtlsMode, Objects, Origin, Sourced, UnreadKind, UnreadPolicy, build};
use super::{NODE, built, complaints, objects, pod, rebuilt};

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
        ("{mtls: {mode: DISABLE}}", MtlsMode::Disable),
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
fn rules_that_mean_nothing_in_the_root_namespace_are_reported() {
    let strict = "mtls: {mode: STRICT}";
    for (spec, field, expected) in [
        (
            format!("{{{strict}, selector: {{matchLabels: {{app: web}}}}}}"),
            "spec.selector",
            MtlsMode::Permissive,
        ),
        // What the ports were to be is not known, so it counts for the strictest.
        (
            "{mtls: {mode: PERMISSIVE}, portLevelMtls: {80: {mode: DISABLE}}}".to_owned(),
            "spec.portLevelMtls",
            MtlsMode::Strict,
        ),
    ] {
        let built = built(&peer_authentication("rule", "istio-system", "", &spec));
        let [problem] = &built.problems[..] else {
            panic!("{:?}", built.problems)
        };
        assert_eq!(problem.field, field);
        assert_eq!(
            problem.object.as_deref(),
            Some("PeerAuthentication istio-system/rule")
        );
        assert_eq!(built.world.mesh().inbound_mode, expected, "{spec}");
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
fn a_mode_that_cannot_be_read_counts_as_strict_for_whom_it_may_be() {
    let unread = |namespace: Option<&str>| {
        let object = UnreadPolicy {
            kind: UnreadKind::PeerAuthentication,
            namespace: namespace.map(str::to_owned),
            name: None,
            selector: None,
        };
        let origin = Origin::new(std::path::Path::new("bad.yaml"), 1);
        Objects {
            unread_policies: vec![Sourced { object, origin }],
            ..Objects::default()
        }
    };
    let rule = peer_authentication("default", "istio-system", "", "{mtls: {mode: PERMISSIVE}}");
    let rule = objects("rule.yaml", &(rule + &pod("web", "10.1.0.2")));
    for (namespace, of_mesh, of_pod) in [
        (None, MtlsMode::Strict, MtlsMode::Strict),
        (Some("istio-system"), MtlsMode::Strict, MtlsMode::Strict),
        (Some("shop"), MtlsMode::Permissive, MtlsMode::Strict),
        (Some("other"), MtlsMode::Permissive, MtlsMode::Permissive),
    ] {
        let world = build([&unread(namespace), &rule], NODE, None).world;
        assert_eq!(world.mesh().inbound_mode, of_mesh, "{namespace:?}");
        let web = world.workload("shop/web").unwrap();
        assert_eq!(
            world.policies().mtls_mode(web, 80).mode,
            of_pod,
            "{namespace:?}"
        );
    }
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
