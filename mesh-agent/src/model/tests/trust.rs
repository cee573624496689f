//! What the settings and pods say of TLS, other meshes and revocation.

use std::time::Duration;

use super::super::{Built, Resolution};
use super::{built, complaints, objects, rebuilt};
use crate::addr::OriginalDst;
use crate::identity::fixtures::{HOUR, TestCa, ca_params, domain, epoch};
use crate::identity::{Revocation, StaleLists};
use crate::model::build;
use crate::tls::{TlsSettings, TlsVersion};

fn pem(label: &str, der: &[u8]) -> String {
    pem::encode(&pem::Pem::new(label, der))
}

fn root(ca: &TestCa) -> String {
    pem("CERTIFICATE", &ca.bundle().roots()[0])
}

fn list(ca: &TestCa) -> String {
    pem("X509 CRL", &ca.list(&["0a"], epoch() + HOUR))
}

/// A block of text, as YAML has it.
fn block(text: &str) -> String {
    let lines = text.lines().map(|line| format!("\n      {line}"));
    format!("|{}", lines.collect::<String>())
}

fn mesh_config(spec: &str) -> String {
    format!(
        "---\napiVersion: isthmus.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: mesh}}\nspec:\n{spec}"
    )
}

/// One entry of `caCertificates`, in order.
fn entry(domains: &str, pem: &str, crl: Option<&str>) -> String {
    let crl = crl.map_or(String::new(), |crl| format!("    crl: {}\n", block(crl)));
    format!(
        "  - trustDomains: {domains}\n    pem: {}\n{crl}",
        block(pem)
    )
}

fn trusting(entries: &[String]) -> String {
    mesh_config(&format!("  caCertificates:\n{}", entries.concat()))
}

/// The foreign domains with the number of their roots, and how they revoke.
fn foreign(built: &Built) -> Vec<(&str, usize, &'static str)> {
    let all = built.world.mesh().foreign.iter();
    all.map(|it| {
        let revocation = match it.revocation {
            Revocation::NotUsed => "not used",
            Revocation::Lists(_) => "lists",
            Revocation::Unreadable(_) => "unreadable",
        };
        let domain = it.bundle.trust_domain().as_str();
        (domain, it.bundle.roots().len(), revocation)
    })
    .collect()
}

#[test]
fn mesh_mtls_says_how_tls_is_done_and_the_last_good_stays() {
    let first = built(&mesh_config(
        "  meshMTLS: {minProtocolVersion: TLSV1_2, ecdhCurves: [P-256, X25519MLKEM768]}\n",
    ));
    assert_eq!(complaints(&first), [""; 0]);
    let tls = first.world.mesh().tls.clone();
    assert_eq!(tls.minimum(), TlsVersion::Tls12);
    assert_eq!(
        tls.curve_names().collect::<Vec<_>>(),
        ["P-256", "X25519MLKEM768"]
    );

    let broken = mesh_config("  meshMTLS: {minProtocolVersion: TLSV1_0, cipherSuites: [RC4]}\n");
    let second = rebuilt(&first.world, &broken);
    let fields: Vec<_> = second.problems.iter().map(|it| it.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.meshMTLS.cipherSuites[0]",
            "spec.meshMTLS.minProtocolVersion"
        ]
    );
    assert!(
        second.problems[0]
            .cure
            .ends_with("until then the settings in force stay"),
        "{}",
        second.problems[0]
    );
    assert_eq!(second.world.mesh().tls, tls);

    // What never was good leaves the default, and nothing said is the default.
    assert_eq!(built(&broken).world.mesh().tls, TlsSettings::default());
    let third = rebuilt(
        &second.world,
        &mesh_config("  trustDomain: cluster.local\n"),
    );
    assert_eq!(third.world.mesh().tls, TlsSettings::default());
}

#[test]
fn a_misspelt_field_of_the_tls_settings_is_no_setting() {
    for spec in [
        "  meshMTLS: {minVersion: TLSV1_3}\n",
        "  meshMtls: {}\n",
        "  revocation: {staleLists: MAYBE}\n",
        "  caCertificates: [{trustDomains: [a], pem: x, spiffeBundleUrl: y}]\n",
    ] {
        let read = crate::config::read_objects(std::path::Path::new("m.yaml"), &mesh_config(spec));
        assert!(read.is_err(), "{spec}");
    }
}

#[test]
fn bundles_by_trust_domain_add_up() {
    let (a, b) = (TestCa::new("a.example"), TestCa::new("b.example"));
    let built = built(&trusting(&[
        entry("[b.example]", &root(&b), Some(&list(&b))),
        entry("[a.example, b.example]", &(root(&a) + &root(&a)), None),
    ]));
    assert_eq!(complaints(&built), [""; 0]);
    assert_eq!(
        foreign(&built),
        [("a.example", 1, "not used"), ("b.example", 2, "lists")]
    );
    let mesh = built.world.mesh();
    for (name, trusted) in [("a.example", true), ("cluster.local", true), ("c", false)] {
        assert_eq!(mesh.trusts(&domain(name)), trusted, "{name}");
    }
    assert_eq!(mesh.stale_lists, StaleLists::Refuse);
}

#[test]
fn what_is_no_bundle_is_said_and_the_last_good_stays() {
    let ca = TestCa::new("a.example");
    let identity = ca.identity(&"spiffe://a.example/ns/shop/sa/web".parse().unwrap());
    let leaf = pem("CERTIFICATE", &identity.chain[0]);
    let key = pem("PRIVATE KEY", identity.key.secret_der());
    let garbage = pem("CERTIFICATE", b"garbage");
    let good = built(&trusting(&[entry(
        "[a.example]",
        &root(&ca),
        Some(&list(&ca)),
    )]));
    assert_eq!(foreign(&good), [("a.example", 1, "lists")]);

    let bad_pem = "spec.caCertificates[0].pem";
    let bad_crl = "spec.caCertificates[0].crl";
    let cases = [
        (
            entry("[a.example]", "notes", None),
            bad_pem,
            "it holds no certificate in PEM",
            None,
        ),
        (
            entry("[a.example]", &garbage, None),
            bad_pem,
            "part 1 is labelled as a certificate and is none",
            None,
        ),
        (
            entry("[a.example]", &leaf, None),
            bad_pem,
            "is not an authority's",
            None,
        ),
        (
            entry("[a.example]", &(root(&ca) + &key), None),
            bad_pem,
            "it holds a private key",
            None,
        ),
        (
            entry("[a.example]", &list(&ca), None),
            bad_pem,
            "part 1 is no certificate",
            None,
        ),
        (
            entry("[a.example]", &root(&ca), Some("notes")),
            bad_crl,
            "it holds no revocation list",
            Some("unreadable"),
        ),
        (
            entry("[a.example]", &root(&ca), Some(&root(&ca))),
            bad_crl,
            "part 1 is no revocation list",
            Some("unreadable"),
        ),
    ];
    for (entry, field, message, without_last_good) in cases {
        let spec = trusting(&[entry]);
        let after = rebuilt(&good.world, &spec);
        let [problem] = &after.problems[..] else {
            panic!("{:?}", after.problems)
        };
        assert_eq!(problem.field, field);
        assert!(problem.message.contains(message), "{problem}");
        assert!(!problem.to_string().contains(key.lines().nth(1).unwrap()));
        assert_eq!(foreign(&after), foreign(&good), "{problem}");
        let alone = built(&spec);
        let expected: Vec<_> = without_last_good
            .map(|it| ("a.example", 1, it))
            .into_iter()
            .collect();
        assert_eq!(foreign(&alone), expected, "{problem}");
    }
    // What is gone from the configuration is not trusted any more.
    let gone = rebuilt(&good.world, &mesh_config("  trustDomain: cluster.local\n"));
    assert_eq!(foreign(&gone), []);
}

#[test]
fn the_domains_of_a_bundle_are_other_meshes() {
    let ca = root(&TestCa::new("a.example"));
    for (domains, field, message) in [
        ("[]", "trustDomains", "are for no trust domain"),
        (
            "[cluster.local]",
            "trustDomains[0]",
            "this mesh's own trust domain",
        ),
        ("[a.example, Not_Valid]", "trustDomains[1]", "is not valid"),
    ] {
        let built = built(&trusting(&[entry(domains, &ca, None)]));
        let [problem] = &built.problems[..] else {
            panic!("{:?}", built.problems)
        };
        assert_eq!(problem.field, format!("spec.caCertificates[0].{field}"));
        assert!(problem.message.contains(message), "{problem}");
        assert_eq!(
            built.world.mesh().foreign.len(),
            usize::from(domains.contains("a.ex"))
        );
    }
}

#[test]
fn a_root_past_its_time_is_said_and_stays() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = ca_params("old root");
    params.not_after = epoch().into();
    let old = pem("CERTIFICATE", params.self_signed(&key).unwrap().der());
    let built = built(&trusting(&[entry("[a.example]", &old, None)]));
    assert_eq!(complaints(&built), [""; 0]);
    assert_eq!(built.world.expired(epoch()), []);
    let [problem] = &built.world.expired(epoch() + Duration::from_secs(1))[..] else {
        panic!("the root has expired")
    };
    assert_eq!(problem.field, "spec.caCertificates");
    assert!(problem.message.contains("old root"), "{problem}");
    assert_eq!(foreign(&built), [("a.example", 1, "not used")]);
}

#[test]
fn stale_lists_are_refused_unless_allowed() {
    let allowed = built(&mesh_config("  revocation: {staleLists: ALLOW}\n"));
    assert_eq!(allowed.world.mesh().stale_lists, StaleLists::Allow);
    let refused = built(&mesh_config("  revocation: {}\n"));
    assert_eq!(refused.world.mesh().stale_lists, StaleLists::Refuse);
}

/// A meshed pod of `node` with one annotation more.
fn pod(name: &str, node: &str, ip: &str, annotation: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: shop
  labels: {{isthmus.dev/mesh: enabled}}
  annotations:
    isthmus.dev/netns: /run/netns/{name}
    isthmus.dev/cgroup: /cg/{name}
    {annotation}
spec: {{nodeName: {node}, serviceAccountName: web}}
status: {{podIP: {ip}}}
"
    )
}

#[test]
fn a_pod_of_another_mesh_has_its_identity_there() {
    let ca = TestCa::new("other.example");
    let config = trusting(&[entry("[other.example]", &root(&ca), None)]);
    let far = pod(
        "far",
        "elsewhere",
        "10.0.0.9",
        "isthmus.dev/trust-domain: other.example",
    );
    let good = built(&(config.clone() + &far));
    assert_eq!(complaints(&good), [""; 0]);
    assert!(good.complete);
    let identity = "spiffe://other.example/ns/shop/sa/web";
    assert_eq!(
        good.world
            .workload("shop/far")
            .unwrap()
            .identity
            .to_string(),
        identity
    );

    // Without a bundle it keeps the identity, so that it is refused and not mistaken.
    let untrusted = built(&far);
    let workload = untrusted.world.workload("shop/far").unwrap();
    assert_eq!(workload.identity.to_string(), identity);
    let [problem] = &complaints(&untrusted)[..] else {
        panic!("{:?}", untrusted.problems)
    };
    assert!(
        problem.contains("nothing vouches for trust domain other.example"),
        "{problem}"
    );

    // One that cannot be read leaves the pod as it was, or without an identity.
    let broken = config + &far.replace("other.example\n", "Other_Example\n");
    let after = rebuilt(&good.world, &broken);
    assert_eq!(
        after
            .world
            .workload("shop/far")
            .unwrap()
            .identity
            .to_string(),
        identity
    );
    let alone = built(&broken);
    assert!(!alone.complete && alone.world.workload("shop/far").is_none());
    let there = OriginalDst("10.0.0.9:80".parse().unwrap());
    assert!(matches!(alone.world.resolve(there), Resolution::Disputed));
}

#[test]
fn a_pod_of_this_node_cannot_be_of_another_mesh() {
    let ca = TestCa::new("other.example");
    let config = trusting(&[entry("[other.example]", &root(&ca), None)]);
    let near = pod(
        "near",
        "node-a",
        "10.0.0.8",
        "isthmus.dev/trust-domain: other.example",
    );
    let built = built(&(config.clone() + &near));
    let [problem] = &complaints(&built)[..] else {
        panic!("{:?}", built.problems)
    };
    assert!(
        problem.contains("annotations[isthmus.dev/trust-domain]"),
        "{problem}"
    );
    assert!(built.world.workload("shop/near").unwrap().local.is_none());
    assert!(!built.complete);
    // Where the same pod is another node's, nothing is wrong with it.
    let there = build([&objects("m.yaml", &(config + &near))], "node-b", None);
    assert_eq!(complaints(&there), [""; 0]);
}

#[test]
fn dns_names_by_identity() {
    let names = |name, ip, names: &str| {
        let annotation = format!("isthmus.dev/tls-names: {names:?}");
        pod(name, "elsewhere", ip, &annotation)
    };
    let built = built(
        &(names("a", "10.0.0.1", "web.example.com, b.local")
            + &names("b", "10.0.0.2", "web.example.com\nc.local")),
    );
    assert_eq!(complaints(&built), [""; 0]);
    let web = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
    let expected = ["b.local", "c.local", "web.example.com"].map(str::to_owned);
    assert_eq!(built.world.name_proofs(), [(web, expected.to_vec())]);
}

#[test]
fn what_is_no_dns_name_is_said_and_left_out() {
    let long = format!("{}.example", "a".repeat(64));
    for (names, message) in [
        ("*.example.com", "a wildcard"),
        ("Web.example.com", "lower-case"),
        ("web..com", "labels of 1 to 63"),
        ("-web.com", "labels of 1 to 63"),
        ("web.com.", "labels of 1 to 63"),
        ("10.0.0.1", "it is an address"),
        ("web_1", "labels of 1 to 63"),
        (long.as_str(), "labels of 1 to 63"),
    ] {
        let annotation = format!("isthmus.dev/tls-names: \"{names}, good.example\"");
        let built = built(&pod("a", "elsewhere", "10.0.0.1", &annotation));
        let [problem] = &complaints(&built)[..] else {
            panic!("{names}: {:?}", built.problems)
        };
        assert!(problem.contains(message), "{problem}");
        let workload = built.world.workload("shop/a").unwrap();
        assert_eq!(workload.tls_names[..], ["good.example".into()], "{names}");
    }
}
