//! Rotations, step by step, and what a crash leaves of one.

use std::fs;

use super::*;
use crate::ca::bed::{Bed, bed};
use crate::ca::{Requester, make_request};
use crate::identity::fixtures::{DAY, HOUR, epoch, id};
use crate::identity::{KeyId, Revocation, TrustUpdate};

impl Bed {
    fn issuer_of_a_new_one(&self) -> String {
        let (request, _) = make_request(&id("web")).unwrap();
        let to = Requester { node: "n".into() };
        self.ca.sign(&request, &id("web"), &to, None).unwrap();
        self.ca.issued(None, true).unwrap().pop().unwrap().issuer
    }

    fn trust(&self) -> TrustUpdate {
        self.ca.trust().unwrap()
    }

    fn roots(&self) -> usize {
        self.trust().domain.bundle.roots().len()
    }

    fn count_of_lists(&self) -> usize {
        match self.trust().domain.revocation {
            Revocation::Lists(lists) => lists.len(),
            other => panic!("{other:?}"),
        }
    }
}

fn named(issuer: &KeyId) -> String {
    issuer.to_string()
}

#[test]
fn a_new_intermediate_is_published_a_minute_before_it_signs() {
    let bed = bed();
    let old = bed.issuer_of_a_new_one();
    let step = bed.ca.rotate_intermediate(None, false).unwrap();
    assert_eq!(step.signs_from, Some(epoch() + PUBLISHED_AHEAD));
    assert_eq!(bed.count_of_lists(), 2, "its list is there before it signs");
    assert_eq!(bed.issuer_of_a_new_one(), old);
    let second = bed.ca.rotate_intermediate(None, false).unwrap_err();
    assert!(
        matches!(second, CaError::RotationUnderWay { .. }),
        "{second}"
    );

    bed.clock.set(epoch() + PUBLISHED_AHEAD);
    assert_eq!(bed.issuer_of_a_new_one(), step.issuer);
    assert_eq!(named(&bed.trust().issuer.unwrap()), step.issuer);

    // The old one stays for as long as its list can cut what its certificates opened.
    bed.clock.set(epoch() + 31 * DAY);
    bed.ca.tend().unwrap();
    assert_eq!(bed.count_of_lists(), 2);
    bed.clock.set(epoch() + 31 * DAY + HOUR);
    bed.ca.tend().unwrap();
    assert_eq!(bed.count_of_lists(), 1);
    assert!(!bed.ca.dir().join("issuers").join(old).exists());
}

#[test]
fn a_compromised_intermediate_is_replaced_at_once() {
    let bed = bed();
    let step = bed.ca.rotate_intermediate(None, true).unwrap();
    assert_eq!(bed.issuer_of_a_new_one(), step.issuer);
    // One that waits can be hurried.
    let waiting = bed.ca.rotate_intermediate(None, false).unwrap();
    let hurried = bed.ca.rotate_intermediate(None, true).unwrap();
    assert_eq!(waiting.issuer, hurried.issuer);
    assert_eq!(bed.issuer_of_a_new_one(), hurried.issuer);
}

#[test]
fn a_root_is_replaced_in_three_steps_and_in_no_other_order() {
    let bed = bed();
    let old = bed.issuer_of_a_new_one();
    for early in [
        bed.ca.activate_root().unwrap_err(),
        bed.ca.finish_root(false).unwrap_err(),
    ] {
        assert!(matches!(early, CaError::NoRotation(_)), "{early}");
    }

    let step = bed.ca.prepare_root(None).unwrap();
    assert_eq!((bed.roots(), bed.count_of_lists()), (2, 2));
    assert_eq!(bed.issuer_of_a_new_one(), old, "the old one still signs");
    assert!(bed.ca.prepare_root(None).is_err());
    assert!(bed.ca.rotate_intermediate(None, true).is_err());
    assert!(matches!(
        bed.ca.finish_root(true),
        Err(CaError::NoRotation(_))
    ));

    bed.ca.activate_root().unwrap();
    assert_eq!(bed.issuer_of_a_new_one(), step.issuer);
    assert_eq!(bed.roots(), 2, "both are trusted");
    assert!(bed.ca.prepare_root(None).is_err());

    let early = bed.ca.finish_root(false).unwrap_err();
    let CaError::StillInUse { count: 2, until } = early else {
        panic!("{early}")
    };
    assert_eq!(until, epoch() + DAY);
    assert_eq!(bed.ca.rotation().unwrap().in_use, 2);
    bed.clock.set(epoch() + DAY + HOUR);
    assert_eq!(bed.ca.finish_root(false).unwrap(), ["root-1"]);
    assert_eq!((bed.roots(), bed.count_of_lists()), (1, 1));
    let keys = fs::read_dir(bed.ca.dir().join("root-keys")).unwrap();
    let keys: Vec<_> = keys.map(|key| key.unwrap().file_name()).collect();
    assert_eq!(keys, ["root-2.pem"], "the old root's key is gone");
    assert_eq!(bed.issuer_of_a_new_one(), step.issuer);
}

#[test]
fn force_drops_a_root_that_is_in_use() {
    let bed = bed();
    bed.issuer_of_a_new_one();
    bed.ca.prepare_root(None).unwrap();
    bed.ca.activate_root().unwrap();
    assert_eq!(bed.ca.finish_root(true).unwrap(), ["root-1"]);
    assert_eq!(bed.roots(), 1);
}

/// What is on disk at each instant of a rotation: the old state with leftovers
/// until the state is replaced, the new state afterwards.
#[test]
fn a_crash_in_a_rotation_leaves_the_old_state_or_the_new() {
    let bed = bed();
    let old = bed.issuer_of_a_new_one();
    let state = bed.ca.dir().join("authority.json");
    let before = fs::read(&state).unwrap();
    bed.ca.prepare_root(None).unwrap();
    let after = fs::read(&state).unwrap();

    // Everything was written but the state.
    fs::write(&state, &before).unwrap();
    let again = Authority::open(bed.ca.dir(), bed.clock.clone()).unwrap();
    assert_eq!(again.rotation().unwrap().rotating, None);
    assert_eq!((bed.roots(), bed.count_of_lists()), (1, 1));
    assert_eq!(bed.issuer_of_a_new_one(), old);
    again.tend().unwrap();
    assert_eq!(
        fs::read_dir(bed.ca.dir().join("issuers")).unwrap().count(),
        1
    );
    assert_eq!(
        fs::read_dir(bed.ca.dir().join("root-keys"))
            .unwrap()
            .count(),
        1
    );
    // The rotation can be begun again.
    again.prepare_root(None).unwrap();
    assert_eq!(bed.roots(), 2);
    assert_ne!(fs::read(&state).unwrap(), after, "another key");

    // The state was replaced, the copy of the roots was not.
    let roots = bed.ca.dir().join("roots.pem");
    fs::write(&roots, "").unwrap();
    again.tend().unwrap();
    assert_eq!(
        fs::read_to_string(&roots).unwrap(),
        again.roots_pem().unwrap()
    );
}
