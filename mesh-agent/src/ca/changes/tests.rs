//! What is told as a change, and what is not.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use super::*;
use crate::ca::{self, Authority, Reason, Requester, make_request};
use crate::identity::fixtures::{ManualClock, domain, epoch, id};

fn bed() -> (tempfile::TempDir, Authority) {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(epoch());
    let ca = ca::init(&dir.path().join("ca"), &domain("cluster.local"), clock).unwrap();
    (dir, ca)
}

/// Whether a change is told without waiting.
async fn is_told(changes: &mut Changes) -> bool {
    changes.take_events();
    let mut changed = pin!(changes.changed());
    poll_fn(|context| Poll::Ready(changed.as_mut().poll(context).is_ready())).await
}

#[tokio::test]
async fn each_act_that_agents_must_know_of_is_told() {
    let (_dir, ca) = bed();
    let mut changes = ca.changes().unwrap();
    assert!(!is_told(&mut changes).await);
    let other = Authority::open(ca.dir(), ManualClock::at(epoch())).unwrap();
    let (request, _) = make_request(&id("web")).unwrap();
    let to = Requester { node: "n".into() };
    let signed = other.sign(&request, &id("web"), &to, None).unwrap();
    assert!(!is_told(&mut changes).await, "a certificate is no change");
    let acts: [(&str, &dyn Fn()); 5] = [
        ("revoke", &|| {
            drop(
                other
                    .revoke_serial(&signed.serial, Reason::Unspecified)
                    .unwrap(),
            )
        }),
        ("rotate", &|| {
            drop(other.rotate_intermediate(None, true).unwrap())
        }),
        ("prepare", &|| drop(other.prepare_root(None).unwrap())),
        ("activate", &|| drop(other.activate_root().unwrap())),
        ("finish", &|| drop(other.finish_root(true).unwrap())),
    ];
    for (name, act) in acts {
        act();
        assert!(is_told(&mut changes).await, "{name}");
        assert!(!is_told(&mut changes).await, "{name} is told twice");
    }
    // The list of an intermediate that came after the watch began.
    let issuer = ca.trust().unwrap().issuer.unwrap().to_string();
    std::fs::write(ca.dir().join("issuers").join(issuer).join("crl.pem"), "").unwrap();
    assert!(is_told(&mut changes).await);
}

#[tokio::test]
async fn whoever_waits_is_woken() {
    let (_dir, ca) = bed();
    let mut changes = ca.changes().unwrap();
    let revoke = async {
        ca.revoke_identity(&id("web"), Reason::Unspecified).unwrap();
        let (request, _) = make_request(&id("db")).unwrap();
        let to = Requester { node: "n".into() };
        let signed = ca.sign(&request, &id("db"), &to, None).unwrap();
        ca.revoke_serial(&signed.serial, Reason::Unspecified)
            .unwrap();
    };
    tokio::join!(changes.changed(), revoke);
}
