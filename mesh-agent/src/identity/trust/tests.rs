//! What the store takes, whom it tells, and that nothing is read twice.

use super::*;
use crate::identity::fixtures::{HOUR, TestCa, epoch, id, trusting};

fn foreign(ca: &TestCa) -> DomainTrust {
    ca.news(Revocation::NotUsed).domain
}

#[test]
fn only_changes_come_into_force_and_are_told() {
    let ca = TestCa::new("cluster.local");
    let trust = trusting(&ca);
    let mut news = trust.subscribe();
    assert_eq!(
        (trust.current().number(), *news.borrow_and_update()),
        (1, 1)
    );
    let names = || NameProofs::new(vec![(id("db"), vec!["db.local".to_owned()])]);
    for _ in 0..2 {
        trust.set_own(ca.news(Revocation::NotUsed));
        trust.set_foreign(Vec::new());
        trust.set_stale(StaleLists::Refuse);
        trust.set_names(NameProofs::default());
    }
    assert!(!news.has_changed().unwrap());
    let other = TestCa::new("other");
    let list = ca.list(&[], epoch() + HOUR);
    let changes: [&dyn Fn(); 5] = [
        &|| trust.set_foreign(vec![foreign(&other)]),
        &|| trust.set_stale(StaleLists::Allow),
        &|| trust.set_names(names()),
        &|| trust.set_own(ca.news(Revocation::Lists(vec![list.clone()]))),
        &|| trust.set_foreign(Vec::new()),
    ];
    for (number, change) in (2..).zip(changes) {
        change();
        change();
        assert_eq!(*news.borrow_and_update(), number);
        assert_eq!(trust.current().number(), number);
    }
}

#[test]
fn neither_the_authority_nor_the_configuration_speaks_for_the_others_domain() {
    let (ca, other) = (TestCa::new("cluster.local"), TestCa::new("other"));
    let impostor = TestCa::new("cluster.local");
    let trust = trusting(&ca);
    trust.set_own(other.news(Revocation::NotUsed));
    trust.set_foreign(vec![foreign(&impostor)]);
    let current = trust.current();
    assert_eq!(current.domains().count(), 1);
    assert_eq!(current.domain(trust.own()).unwrap().bundle, ca.bundle());
    assert_eq!(current.issuer(), Some(&ca.key_id()));
}

#[test]
fn roots_and_lists_are_read_when_they_change_only() {
    let (ca, other) = (TestCa::new("cluster.local"), TestCa::new("other"));
    let trust = trusting(&ca);
    let own = trust.own().clone();
    let before = trust.current();
    trust.set_foreign(vec![foreign(&other)]);
    let after = trust.current();
    let same = |a: &Trust, b: &Trust| {
        (
            Arc::ptr_eq(a.anchors(&own).unwrap(), b.anchors(&own).unwrap()),
            Arc::ptr_eq(a.lists(&own).unwrap(), b.lists(&own).unwrap()),
        )
    };
    assert_eq!(same(&before, &after), (true, true));
    trust.set_own(ca.news(Revocation::Lists(vec![ca.list(&[], epoch() + HOUR)])));
    assert_eq!(same(&after, &trust.current()), (true, false));

    let of_other = other.bundle().trust_domain().clone();
    trust.set_foreign(vec![foreign(&other), foreign(&TestCa::new("third"))]);
    let roots = |trust: &Trust| Arc::clone(trust.anchors(&of_other).unwrap());
    assert!(Arc::ptr_eq(&roots(&after), &roots(&trust.current())));
}
