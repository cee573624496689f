//! Requests as honest clients send them, and as hostile ones do.

use rcgen::{
    Attribute, BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose as Extended, IsCa, KeyPair, KeyUsagePurpose as Usage,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize,
    SanType, SignatureAlgorithm,
};

use super::*;
use crate::identity::fixtures::{domain, id};

fn key_of(algorithm: &'static SignatureAlgorithm) -> KeyPair {
    KeyPair::generate_for(algorithm).unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// What our agents and ztunnel send: an empty subject and one URI.
fn honest() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(&id("web").to_string())];
    params
}

fn request(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = honest();
    change(&mut params);
    let key = key_of(&PKCS_ECDSA_P256_SHA256);
    params.serialize_request(&key).unwrap().der().to_vec()
}

fn signed_by(key: &KeyPair) -> Vec<u8> {
    honest().serialize_request(key).unwrap().der().to_vec()
}

#[test]
fn honest_requests_pass_and_keep_their_key() {
    let keys = [
        key_of(&PKCS_ECDSA_P256_SHA256),
        key_of(&PKCS_ECDSA_P384_SHA384),
        key_of(&PKCS_RSA_SHA256),
    ];
    for key in &keys {
        let checked = check_request(&signed_by(key), &id("web")).unwrap();
        assert_eq!(
            rcgen::PublicKeyData::subject_public_key_info(checked.key()),
            rcgen::PublicKeyData::subject_public_key_info(key)
        );
    }
    let variants: [fn(&mut CertificateParams); 4] = [
        |params| params.is_ca = IsCa::ExplicitNoCa,
        |params| params.key_usages = vec![Usage::DigitalSignature],
        |params| params.extended_key_usages = vec![Extended::ServerAuth, Extended::ClientAuth],
        // Istio's agent.
        |params| params.distinguished_name.push(DnType::OrganizationName, ""),
    ];
    for (number, variant) in variants.into_iter().enumerate() {
        let checked = check_request(&request(variant), &id("web"));
        assert!(checked.is_ok(), "{number}: {checked:?}");
    }
}

#[test]
fn what_asks_for_more_is_refused_with_the_reason() {
    type Change = fn(&mut CertificateParams);
    let cases: [(&str, Change, &str); 15] = [
        (
            "no name",
            |p| p.subject_alt_names.clear(),
            "no subject alternative name",
        ),
        (
            "somebody else",
            |p| p.subject_alt_names = vec![uri(&id("db").to_string())],
            "is asked for",
        ),
        (
            "two identities",
            |p| p.subject_alt_names.push(uri(&id("db").to_string())),
            "2 subject alternative names",
        ),
        (
            "the same twice",
            |p| p.subject_alt_names.push(uri(&id("web").to_string())),
            "2 subject alternative names",
        ),
        (
            "a DNS name beside",
            |p| {
                p.subject_alt_names
                    .push(SanType::DnsName("a.example".try_into().unwrap()))
            },
            "2 subject alternative names",
        ),
        (
            "a DNS name instead",
            |p| p.subject_alt_names = vec![SanType::DnsName("a.example".try_into().unwrap())],
            "a DNS name",
        ),
        (
            "an address instead",
            |p| p.subject_alt_names = vec![SanType::IpAddress([10, 0, 0, 1].into())],
            "an IP address",
        ),
        (
            "another spelling",
            |p| p.subject_alt_names = vec![uri("SPIFFE://cluster.local/ns/shop/sa/web")],
            "is asked for",
        ),
        (
            "an authority",
            |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            "a certificate authority",
        ),
        (
            "to sign certificates",
            |p| p.key_usages = vec![Usage::KeyCertSign],
            "a key usage",
        ),
        (
            "one usage too many",
            |p| p.key_usages = vec![Usage::DigitalSignature, Usage::KeyEncipherment],
            "a key usage",
        ),
        (
            "any purpose",
            |p| p.extended_key_usages = vec![Extended::Any],
            "an extended key usage",
        ),
        (
            "code signing",
            |p| p.extended_key_usages = vec![Extended::ServerAuth, Extended::CodeSigning],
            "an extended key usage",
        ),
        (
            "a subject",
            |p| p.distinguished_name.push(DnType::CommonName, "admin"),
            "a subject",
        ),
        (
            "an extension of its own",
            |p| {
                let odd = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
                p.custom_extensions.push(odd);
            },
            "the extension 1.2.3.4",
        ),
    ];
    for (name, change, reason) in cases {
        let error = check_request(&request(change), &id("web")).expect_err(name);
        let text = error.to_string();
        assert!(text.contains(reason), "{name}: {text}");
    }
}

#[test]
fn weak_and_foreign_keys_are_refused() {
    let ed25519 = check_request(&signed_by(&key_of(&PKCS_ED25519)), &id("web"));
    assert!(matches!(ed25519, Err(CsrError::Key(_))), "{ed25519:?}");
    let p521 = check_request(
        &signed_by(&key_of(&rcgen::PKCS_ECDSA_P521_SHA512)),
        &id("web"),
    );
    assert!(matches!(p521, Err(CsrError::Key(_))), "{p521:?}");
    // Longer than 4096 bits is not refused by its size alone but by ours.
    let long = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_4096).unwrap();
    assert!(check_request(&signed_by(&long), &id("web")).is_ok());
}

/// Made by `openssl req -new -newkey rsa:1024`, which rcgen cannot.
#[test]
fn a_short_rsa_key_is_refused_by_its_size() {
    let der = include_bytes!("rsa1024.der");
    let error = check_request(der, &id("web")).unwrap_err();
    assert_eq!(error, CsrError::Key("RSA of 1024 bits".into()));
}

#[test]
fn a_request_that_its_key_did_not_sign_is_refused() {
    let fine = request(|_| {});
    let mut broken = fine.clone();
    let last = broken.len() - 1;
    broken[last] ^= 1;
    assert_eq!(
        check_request(&broken, &id("web")).unwrap_err(),
        CsrError::Signature
    );

    // The key of one request, the signature of another.
    let other = request(|_| {});
    let spki = |der: &[u8]| {
        let key = X509CertificationRequest::from_der(der).unwrap().1;
        key.certification_request_info.subject_pki.raw.to_vec()
    };
    let (mine, theirs) = (spki(&fine), spki(&other));
    let at = fine
        .windows(mine.len())
        .position(|part| part == mine)
        .unwrap();
    let mut stolen = fine.clone();
    stolen[at..at + mine.len()].copy_from_slice(&theirs);
    assert_eq!(
        check_request(&stolen, &id("web")).unwrap_err(),
        CsrError::Signature
    );
}

#[test]
fn what_is_not_exactly_one_request_is_refused() {
    let fine = request(|_| {});
    let longer = [&fine[..], &[0]].concat();
    assert_eq!(
        check_request(&longer, &id("web")).unwrap_err(),
        CsrError::Malformed("bytes after its end")
    );
    assert_eq!(
        check_request(&vec![0x30; MAX_REQUEST + 1], &id("web")).unwrap_err(),
        CsrError::TooLong(MAX_REQUEST + 1)
    );
    for end in 0..fine.len() {
        let cut = check_request(&fine[..end], &id("web"));
        assert!(matches!(cut, Err(CsrError::Malformed(_))), "{end}: {cut:?}");
    }
    // A changed bit is noticed by the parser or by the signature. The few that frame
    // what is signed, and that the parser does not look at, change nothing.
    let key = |der: &[u8]| check_request(der, &id("web")).map(|checked| checked.key().clone());
    let mine = key(&fine).unwrap();
    let mut unnoticed = 0;
    for bit in 0..fine.len() * 8 {
        let mut changed = fine.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        if let Ok(key) = key(&changed) {
            assert_eq!(key, mine, "bit {bit}");
            unnoticed += 1;
        }
    }
    assert!(unnoticed < 32, "{unnoticed}");
}

#[test]
fn attributes_beside_the_extensions_are_refused() {
    // PKCS #9 challengePassword.
    let password = Attribute {
        oid: &[1, 2, 840, 113_549, 1, 9, 7],
        values: vec![0x31, 0x04, 0x0c, 0x02, b'p', b'w'],
    };
    let key = key_of(&PKCS_ECDSA_P256_SHA256);
    let request = honest()
        .serialize_request_with_attributes(&key, vec![password])
        .unwrap();
    let error = check_request(request.der(), &id("web")).unwrap_err();
    assert!(matches!(error, CsrError::NotGranted(_)), "{error}");
}

#[test]
fn an_intermediates_request_is_for_one_trust_domain_and_no_more_than_a_workload_is() {
    let intermediate = |change: fn(&mut CertificateParams)| {
        request(|params| {
            params.subject_alt_names = vec![uri("spiffe://cluster.local")];
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![Usage::KeyCertSign, Usage::CrlSign];
            change(params);
        })
    };
    let home = domain("cluster.local");
    let fine = intermediate(|_| {});
    assert!(check_intermediate_request(&fine, &home).is_ok());
    assert!(check_intermediate_request(&fine, &domain("example.org")).is_err());
    assert!(check_request(&fine, &id("web")).is_err());
    for change in [
        (|p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(1))) as fn(&mut CertificateParams),
        |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        |p| p.key_usages.push(Usage::DigitalSignature),
        |p| p.extended_key_usages = vec![Extended::ServerAuth],
        |p| p.subject_alt_names.push(uri("spiffe://example.org")),
    ] {
        assert!(check_intermediate_request(&intermediate(change), &home).is_err());
    }
}
