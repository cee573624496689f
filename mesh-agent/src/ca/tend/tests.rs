//! Time passes: lists stay fresh, and intermediates are replaced by themselves.

use std::sync::Arc;
use std::time::Duration;

use x509_parser::prelude::{CertificateRevocationList, FromDer};

use crate::ca::{self, Authority, Requester, SignError, make_request};
use crate::identity::fixtures::{DAY, HOUR, ManualClock, domain, epoch, id};
use crate::identity::{Clock, Revocation, leaf};

fn lists(ca: &Authority) -> Vec<(u64, std::time::SystemTime)> {
    let Revocation::Lists(lists) = ca.trust().unwrap().domain.revocation else {
        panic!("no lists")
    };
    lists
        .iter()
        .map(|der| {
            let (_, list) = CertificateRevocationList::from_der(der).unwrap();
            let number = list.crl_number().unwrap().try_into().unwrap();
            let until = leaf::system_time(list.next_update().unwrap()).unwrap();
            (number, until)
        })
        .collect()
}

fn sign(ca: &Authority) -> Result<String, SignError> {
    let (request, _) = make_request(&id("web")).unwrap();
    let to = Requester { node: "n".into() };
    ca.sign(&request, &id("web"), &to, None)?;
    Ok(ca.trust().unwrap().issuer.unwrap().to_string())
}

fn fresh() -> (tempfile::TempDir, Arc<ManualClock>, Authority) {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(epoch());
    let ca = ca::init(
        &dir.path().join("ca"),
        &domain("cluster.local"),
        clock.clone(),
    )
    .unwrap();
    (dir, clock, ca)
}

#[test]
fn lists_are_signed_anew_past_half_of_their_life_with_a_higher_number() {
    let (_dir, clock, ca) = fresh();
    let first = lists(&ca);
    assert_eq!(first[0].1, epoch() + DAY);
    clock.set(epoch() + 11 * HOUR);
    ca.tend().unwrap();
    assert_eq!(lists(&ca), first, "not before");
    clock.set(epoch() + 13 * HOUR);
    ca.tend().unwrap();
    let second = lists(&ca);
    assert_eq!(second[0].1, epoch() + 37 * HOUR);
    assert!(second[0].0 > first[0].0);
}

/// Ten years without a person: one intermediate after another, each with a list,
/// until the root itself ends.
#[test]
fn years_pass_and_somebody_can_always_sign() {
    let (_dir, clock, ca) = fresh();
    let mut issuers = Vec::new();
    let end = epoch() + 9 * 365 * DAY;
    while clock.now() < end {
        // A machine that is off for two weeks now and then.
        clock.set(clock.now() + 15 * DAY);
        ca.tend().unwrap();
        clock.set(clock.now() + Duration::from_secs(61));
        ca.tend().unwrap();
        let issuer = sign(&ca).unwrap();
        if issuers.last() != Some(&issuer) {
            issuers.push(issuer);
        }
        assert!(lists(&ca).iter().all(|(_, until)| *until > clock.now()));
        assert!(lists(&ca).len() <= 2, "old ones are retired");
    }
    assert!((15..=19).contains(&issuers.len()), "{}", issuers.len());
}

#[test]
fn an_authority_that_slept_past_its_intermediate_makes_another_at_once() {
    let (_dir, clock, ca) = fresh();
    clock.set(epoch() + 400 * DAY);
    let refused = sign(&ca).unwrap_err();
    assert!(matches!(refused, SignError::Expired(_)), "{refused}");
    ca.tend().unwrap();
    sign(&ca).unwrap();
}

#[test]
fn nothing_outlives_the_root_and_no_intermediate_is_made_in_vain() {
    let (_dir, clock, ca) = fresh();
    let root_end = epoch() + crate::ca::profile::ROOT_LIFETIME;
    let mut last = String::new();
    for days in (1..100).rev() {
        clock.set(root_end - days * DAY);
        ca.tend().unwrap();
        last = sign(&ca).unwrap();
    }
    clock.set(root_end - HOUR);
    ca.tend().unwrap();
    assert_eq!(sign(&ca).unwrap(), last);
    let all = ca.issued(None, false).unwrap();
    assert!(
        all.iter()
            .all(|entry| entry.not_after <= crate::identity::clock::display(root_end))
    );
    clock.set(root_end + HOUR);
    ca.tend().unwrap();
    assert!(matches!(sign(&ca), Err(SignError::Expired(_))));
}
