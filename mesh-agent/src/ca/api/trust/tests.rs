use rcgen::{CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, SerialNumber};

use super::*;
use crate::identity::fixtures::{TestCa, ca_params, domain, epoch};

fn list() -> CertificateRevocationListDer<'static> {
    let params = CertificateRevocationListParams {
        this_update: epoch().into(),
        next_update: (epoch() + crate::identity::fixtures::DAY).into(),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let issuer = Issuer::new(ca_params("root"), KeyPair::generate().unwrap());
    params.signed_by(&issuer).unwrap().into()
}

fn update(revocation: Revocation) -> TrustUpdate {
    let (a, b) = (TestCa::new("cluster.local"), TestCa::new("cluster.local"));
    let bundle = a.bundle_with(&b);
    TrustUpdate {
        domain: DomainTrust { bundle, revocation },
        issuer: Some(KeyId::new(&[1, 2, 3])),
    }
}

#[test]
fn every_state_survives_the_way_over_the_wire() {
    for revocation in [
        Revocation::NotUsed,
        Revocation::Lists(vec![]),
        Revocation::Lists(vec![list(), list()]),
        Revocation::Unreadable("no such file".into()),
    ] {
        let update = update(revocation);
        let read = TrustMessage::new(&update).read(&domain("cluster.local"));
        assert_eq!(read, Ok(update));
    }
}

#[test]
fn a_list_that_cannot_be_read_is_said_and_not_left_out() {
    let mut message = TrustMessage::new(&update(Revocation::Lists(vec![list()])));
    let truncated = &list()[..40];
    message.revocation_lists.push(block("X509 CRL", truncated));
    let read = message.read(&domain("cluster.local")).unwrap();
    let Revocation::Unreadable(why) = read.domain.revocation else {
        panic!("{read:?}");
    };
    assert!(why.contains("list 1"), "{why}");
}

/// What an authority that knows nothing of the flag sends must not read as "no
/// revocation": then a stripped message would undo every revocation.
#[test]
fn a_message_without_lists_is_not_a_domain_without_revocation() {
    let mut message = TrustMessage::new(&update(Revocation::NotUsed));
    message.revocation_not_used = false;
    let read = message.read(&domain("cluster.local")).unwrap();
    assert_eq!(read.domain.revocation, Revocation::Lists(vec![]));
}

#[test]
fn unusable_states_are_refused() {
    let ours = domain("cluster.local");
    let good = TrustMessage::new(&update(Revocation::NotUsed));
    let mut other = good.clone();
    other.trust_domain = "other.example".to_owned();
    assert!(matches!(
        other.read(&ours),
        Err(TrustMessageError::OtherDomain { .. })
    ));
    let mut rootless = good.clone();
    rootless.roots.clear();
    assert_eq!(rootless.read(&ours), Err(TrustMessageError::NoRoot));
    let mut garbled = good;
    garbled.roots[1] = certificate(b"not DER");
    assert_eq!(garbled.read(&ours), Err(TrustMessageError::Root(1)));
}
