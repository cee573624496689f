//! Revocation: who is refused, what the lists say, and when.

use std::collections::BTreeSet;

use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::*;
use crate::ca::bed::{Bed, bed};
use crate::ca::{Requester, SignError, make_request};
use crate::identity::fixtures::{DAY, HOUR, epoch, id};
use crate::identity::{Revocation, leaf};

impl Bed {
    fn issue(&self, account: &str) -> Result<String, SignError> {
        let (request, _) = make_request(&id(account)).unwrap();
        let to = Requester { node: "n".into() };
        let signed = self.ca.sign(&request, &id(account), &to, None)?;
        Ok(signed.serial)
    }

    /// The serials on all lists, and the highest number.
    fn lists(&self) -> (BTreeSet<String>, u64) {
        let Revocation::Lists(lists) = self.ca.trust().unwrap().domain.revocation else {
            panic!("no lists")
        };
        let (mut serials, mut number) = (BTreeSet::new(), 0);
        for der in &lists {
            let (_, list) = CertificateRevocationList::from_der(der).unwrap();
            let own: u64 = list.crl_number().unwrap().try_into().unwrap();
            number = number.max(own);
            let entries = list.iter_revoked_certificates();
            serials.extend(entries.map(|entry| leaf::hex(entry.raw_serial())));
        }
        (serials, number)
    }
}

fn set<const N: usize>(serials: [&String; N]) -> BTreeSet<String> {
    serials.into_iter().cloned().collect()
}

#[test]
fn a_serial_is_revoked_and_its_identity_is_not() {
    let bed = bed();
    let (one, two) = (bed.issue("web").unwrap(), bed.issue("web").unwrap());
    let (none, first) = bed.lists();
    assert!(none.is_empty());
    // As OpenSSL prints it.
    let shown = one.to_uppercase();
    let pairs: Vec<_> = (0..32).step_by(2).map(|at| &shown[at..at + 2]).collect();
    let done = bed
        .ca
        .revoke_serial(&pairs.join(":"), Reason::KeyCompromise);
    assert_eq!(done.unwrap().serials, vec![one.clone()]);
    let (named, second) = bed.lists();
    assert_eq!(named, set([&one]));
    assert!(second > first, "the number rises within one second");
    assert!(bed.issue("web").is_ok());
    let again = bed.ca.revoke_serial(&one, Reason::Unspecified).unwrap();
    assert!(again.serials.is_empty());
    let unknown = bed
        .ca
        .revoke_serial("00ff", Reason::Unspecified)
        .unwrap_err();
    assert!(
        matches!(unknown, CaError::UnknownSerial { .. }),
        "{unknown}"
    );
    bed.ca.revoke_serial(&two, Reason::Superseded).unwrap();
    assert_eq!(bed.lists().0, set([&one, &two]));
}

#[test]
fn an_identity_is_refused_until_it_is_restored() {
    let bed = bed();
    let expired = bed.issue("web").unwrap();
    bed.clock.set(epoch() + DAY + HOUR);
    let (one, two) = (bed.issue("web").unwrap(), bed.issue("web").unwrap());
    let other = bed.issue("db").unwrap();
    let done = bed
        .ca
        .revoke_identity(&id("web"), Reason::PrivilegeWithdrawn);
    assert_eq!(done.unwrap().serials, [one.clone(), two.clone()]);
    let named = bed.lists().0;
    // A tunnel may have outlived the first.
    assert_eq!(named, set([&expired, &one, &two]));
    assert!(!named.contains(&other));
    let refused = bed.issue("web").unwrap_err();
    assert!(matches!(&refused, SignError::Revoked { .. }), "{refused}");
    assert!(bed.issue("db").is_ok());

    bed.ca.restore(&id("web")).unwrap();
    bed.issue("web").unwrap();
    assert_eq!(
        bed.lists().0,
        set([&expired, &one, &two]),
        "what was revoked stays so"
    );
    assert!(matches!(
        bed.ca.restore(&id("web")),
        Err(CaError::NotRevoked { .. })
    ));
}

#[test]
fn another_process_learns_of_it_with_its_next_request() {
    let bed = bed();
    let other = Authority::open(bed.ca.dir(), bed.clock.clone()).unwrap();
    other
        .revoke_identity(&id("web"), Reason::Unspecified)
        .unwrap();
    assert!(matches!(bed.issue("web"), Err(SignError::Revoked { .. })));
}

#[test]
fn lists_forget_what_has_expired() {
    let bed = bed();
    let one = bed.issue("web").unwrap();
    bed.ca.revoke_serial(&one, Reason::Unspecified).unwrap();
    bed.clock.set(epoch() + DAY);
    bed.ca.tend().unwrap();
    assert_eq!(bed.lists().0, set([&one]), "it is still valid");
    bed.clock.set(epoch() + 30 * DAY);
    bed.ca.tend().unwrap();
    assert_eq!(bed.lists().0, set([&one]), "a tunnel may have outlived it");
    bed.clock.set(epoch() + 32 * DAY);
    bed.ca.tend().unwrap();
    assert!(bed.lists().0.is_empty());
}

/// Each certificate is on the list of who signed it.
#[test]
fn revocation_reaches_certificates_of_an_intermediate_that_no_longer_signs() {
    let bed = bed();
    let old = bed.issue("web").unwrap();
    bed.ca.rotate_intermediate(None, true).unwrap();
    let new = bed.issue("web").unwrap();
    let done = bed
        .ca
        .revoke_identity(&id("web"), Reason::Unspecified)
        .unwrap();
    assert_eq!((done.serials.len(), done.lists), (2, 2));
    assert_eq!(bed.lists().0, set([&old, &new]));
}

/// The crash falls between what was revoked and the lists.
#[test]
fn a_crash_before_the_lists_are_signed_is_made_good() {
    let bed = bed();
    let one = bed.issue("web").unwrap();
    let issuer = bed.ca.trust().unwrap().issuer.unwrap().to_string();
    let list = bed.ca.dir().join("issuers").join(issuer).join("crl.pem");
    let before = std::fs::read(&list).unwrap();
    bed.ca.revoke_serial(&one, Reason::Unspecified).unwrap();
    std::fs::write(&list, before).unwrap();
    let again = Authority::open(bed.ca.dir(), bed.clock.clone()).unwrap();
    assert!(bed.lists().0.is_empty());
    again.tend().unwrap();
    assert_eq!(bed.lists().0, set([&one]));
}
