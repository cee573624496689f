//! What the settings say of TLS, other meshes and revocation.

use std::time::Duration;

use super::super::Built;
use super::{built, complaints, rebuilt};
use crate::identity::fixtures::{HOUR, TestCa, ca_params, domain, epoch};
use crate::identity::{Revocation, StaleLists};
use crate::tls::{TlsSettings, TlsVersion};

fn pem(label: &str, der: &[u8]) -> String {
    pem::encode(&pem::Pem::new(label, der))
}

pub(super) fn root(ca: &TestCa) -> String {
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
pub(super) fn entry(domains: &str, pem: &str, crl: Option<&str>) -> String {
    let crl = crl.map_or(String::new(), |crl| format!("    crl: {}\n", block(crl)));
    format!(
        "  - trustDomains: {domains}\n    pem: {}\n{crl}",
        block(pem)
    )
}

pub(super) fn trusting(entries: &[String]) -> String {
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
