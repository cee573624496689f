//! Reading leaf certificates, good ones and hostile ones.

use rcgen::{CustomExtension, SanType};

use super::*;
use crate::identity::fixtures::{DAY, TestCa, epoch, id, leaf_params};

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn signed(params: rcgen::CertificateParams) -> Vec<u8> {
    TestCa::new("cluster.local").sign(params).chain[0].to_vec()
}

fn with_names(names: Vec<SanType>) -> Vec<u8> {
    let mut params = leaf_params(&[]);
    params.subject_alt_names = names;
    signed(params)
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

#[test]
fn identity_serial_and_validity_are_read() {
    let mut params = leaf_params(&[WEB]);
    params.serial_number = Some(rcgen::SerialNumber::from_slice(&[0x01, 0xab, 0x00]));
    let leaf = read(&signed(params)).unwrap();
    assert_eq!(leaf.id, id("web"));
    assert_eq!(leaf.serial, "01ab00");
    assert_eq!(leaf.not_before, epoch());
    assert_eq!(leaf.not_after, epoch() + DAY);
}

#[test]
fn times_before_1970_are_read() {
    let mut params = leaf_params(&[WEB]);
    params.not_before = rcgen::date_time_ymd(1969, 12, 31);
    assert_eq!(read(&signed(params)).unwrap().not_before, UNIX_EPOCH - DAY);
}

#[test]
fn names_of_other_types_may_stand_beside_the_uri() {
    let der = with_names(vec![
        SanType::DnsName("web.shop.svc".try_into().unwrap()),
        uri(WEB),
        SanType::IpAddress([10, 0, 0, 1].into()),
    ]);
    assert_eq!(leaf_identity(&der), Ok(id("web")));
}

#[test]
fn certificates_without_exactly_one_workload_uri_are_refused() {
    let other = "spiffe://cluster.local/ns/shop/sa/db";
    let dns = || SanType::DnsName("web".try_into().unwrap());
    assert_eq!(
        leaf_identity(&with_names(vec![])),
        Err(PeerIdentityError::NoUri)
    );
    assert_eq!(
        leaf_identity(&with_names(vec![dns()])),
        Err(PeerIdentityError::NoUri)
    );
    // Also when the same identity stands there twice.
    for second in [other, WEB, "https://example.org/"] {
        assert_eq!(
            leaf_identity(&with_names(vec![uri(WEB), uri(second)])),
            Err(PeerIdentityError::SeveralUris(2)),
            "{second}"
        );
    }
    for wrong in [
        "https://cluster.local/",
        "spiffe://cluster.local",
        "spiffe://A/ns/b/sa/c",
    ] {
        let refused = leaf_identity(&with_names(vec![uri(wrong)]));
        assert!(
            matches!(refused, Err(PeerIdentityError::NotAWorkload(_))),
            "{wrong}: {refused:?}"
        );
    }
    let long = format!("spiffe://cluster.local/ns/shop/sa/{}", "a".repeat(2048));
    assert_eq!(
        leaf_identity(&with_names(vec![uri(&long)])),
        Err(PeerIdentityError::TooLong(long.len()))
    );
}

/// A subject alternative name extension (OID 2.5.29.17) with these bytes.
fn with_raw_names(der: &[u8]) -> Vec<u8> {
    let mut params = leaf_params(&[]);
    let names = CustomExtension::from_oid_content(&[2, 5, 29, 17], der.to_vec());
    params.custom_extensions = vec![names];
    signed(params)
}

#[test]
fn a_uri_that_is_not_text_is_refused_even_beside_a_good_one() {
    let mut names = vec![0x86, 2, 0xff, 0xfe];
    names.extend([0x86, WEB.len() as u8]);
    names.extend(WEB.as_bytes());
    let mut extension = vec![0x30, names.len() as u8];
    extension.extend(names);
    let refused = leaf_identity(&with_raw_names(&extension));
    assert_eq!(
        refused,
        Err(PeerIdentityError::Malformed("a URI that is not text"))
    );
}

#[test]
fn two_name_extensions_are_refused() {
    let mut params = leaf_params(&[WEB]);
    let mut extension = vec![0x30, WEB.len() as u8 + 2, 0x86, WEB.len() as u8];
    extension.extend(WEB.as_bytes());
    params.custom_extensions = vec![CustomExtension::from_oid_content(
        &[2, 5, 29, 17],
        extension,
    )];
    assert_eq!(
        leaf_identity(&signed(params)),
        Err(PeerIdentityError::Malformed(
            "its subject alternative names"
        ))
    );
}

#[test]
fn bytes_after_the_certificate_are_refused() {
    let mut der = signed(leaf_params(&[WEB]));
    der.push(0);
    assert_eq!(
        leaf_identity(&der),
        Err(PeerIdentityError::Malformed("bytes after its end"))
    );
}

/// Whatever one changed or missing byte does, reading ends with an answer, and
/// an identity other than the certificate's own appears only where the URI's own
/// bytes were changed.
#[test]
fn damaged_certificates_are_read_or_refused_and_never_panic() {
    let der = signed(leaf_params(&[WEB]));
    let at = der
        .windows(WEB.len())
        .position(|part| part == WEB.as_bytes())
        .unwrap();
    for end in 0..der.len() {
        assert!(read(&der[..end]).is_err(), "cut at {end}");
    }
    for position in 0..der.len() {
        for flip in [0x01, 0x20, 0x80, 0xff] {
            let mut damaged = der.clone();
            damaged[position] ^= flip;
            if let Ok(leaf) = read(&damaged) {
                let in_uri = (at..at + WEB.len()).contains(&position);
                assert!(
                    in_uri || leaf.id == id("web"),
                    "byte {position} ^ {flip:#x}: {}",
                    leaf.id
                );
            }
        }
    }
}
