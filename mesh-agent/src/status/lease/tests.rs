use std::sync::{Arc, Mutex};

use http::Method;
use serde_json::{Value, json};

use super::*;
use crate::kubernetes::testing::{Asked, FakeApi, Reply};

/// A server with room for one lease, which refuses a write that did not see the last one.
fn server() -> FakeApi {
    let kept: Mutex<Option<(u64, Value)>> = Mutex::default();
    FakeApi::new(move |asked: &Asked| {
        let mut kept = kept.lock().unwrap();
        if asked.method == Method::GET {
            return match &*kept {
                Some((_, lease)) => Reply::Json(lease.clone()),
                None => Reply::Fail(404, "NotFound"),
            };
        }
        let version = kept.as_ref().map(|(version, _)| *version);
        let seen = asked.body["metadata"]["resourceVersion"].as_str();
        if seen.map(str::to_owned) != version.map(|version| version.to_string()) {
            return Reply::Fail(409, "Conflict");
        }
        let mut lease = asked.body.clone();
        let next = version.unwrap_or(0) + 1;
        lease["metadata"]["resourceVersion"] = json!(next.to_string());
        *kept = Some((next, lease.clone()));
        Reply::Json(lease)
    })
}

fn agent(api: &FakeApi, node: &str) -> Lease {
    Lease::new(api.client(), "isthmus-system", node)
}

#[tokio::test]
async fn one_holds_it_and_the_next_when_the_first_is_gone() {
    tokio::time::pause();
    let api = server();
    let (mut first, mut second) = (agent(&api, "a"), agent(&api, "b"));
    assert!(first.attempt().await.unwrap());
    for _ in 0..10 {
        assert!(!second.attempt().await.unwrap());
        tokio::time::advance(RENEW).await;
        assert!(first.attempt().await.unwrap());
    }
    // The first falls silent: it stops before the second begins.
    assert!(!second.attempt().await.unwrap());
    tokio::time::advance(DURATION - Duration::from_secs(1)).await;
    assert!(!first.is_held());
    assert!(!second.attempt().await.unwrap());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(second.attempt().await.unwrap());
    assert!(!first.attempt().await.unwrap(), "it is back, and too late");
    let last = api.asked(&Method::PUT, NAME).pop().unwrap().body;
    assert_eq!(last["spec"]["leaseTransitions"], 2);
}

#[tokio::test]
async fn of_two_that_take_it_at_once_one_gets_it() {
    let api = Arc::new(server());
    let (mut first, mut second) = (agent(&api, "a"), agent(&api, "b"));
    let (a, b) = tokio::join!(first.attempt(), second.attempt());
    assert!(a.unwrap() != b.unwrap());
}

#[tokio::test]
async fn an_error_does_not_lengthen_it() {
    tokio::time::pause();
    let api = FakeApi::new(|_| Reply::Fail(500, "InternalError"));
    let mut lease = agent(&api, "a");
    lease.attempt().await.unwrap_err();
    assert!(!lease.is_held());
    lease.held = Some(Instant::now());
    tokio::time::advance(DURATION - MARGIN).await;
    lease.keep().await.unwrap_err();
    assert!(!lease.is_held());
}

#[tokio::test(start_paused = true)]
async fn one_that_is_given_up_is_free_at_once_and_no_others_is_taken_away() {
    let api = server();
    let (mut first, mut second) = (agent(&api, "a"), agent(&api, "b"));
    assert!(first.attempt().await.unwrap());
    assert!(!second.attempt().await.unwrap());
    first.release().await.unwrap();
    assert!(!first.is_held());
    let last = api.asked(&Method::PUT, NAME).pop().unwrap().body;
    assert_eq!(last["spec"]["holderIdentity"], Value::Null);
    assert_eq!(last["metadata"]["resourceVersion"], "1");
    assert!(second.attempt().await.unwrap());
    // Nothing is written by one that does not hold it, whatever it believes.
    let written = api.asked(&Method::PUT, NAME).len();
    first.release().await.unwrap();
    first.held = Some(Instant::now());
    first.release().await.unwrap();
    assert_eq!(api.asked(&Method::PUT, NAME).len(), written);
    assert!(second.attempt().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn one_that_another_took_meanwhile_stays_theirs() {
    let theirs = |holder: &str| {
        json!({"metadata": {"name": NAME, "resourceVersion": "1"},
        "spec": {"holderIdentity": holder}})
    };
    let holder = Arc::new(Mutex::new(String::new()));
    let kept = Arc::clone(&holder);
    let api = FakeApi::new(move |asked| match asked.method {
        Method::GET => Reply::Json(theirs(&kept.lock().unwrap())),
        _ => Reply::Fail(409, "Conflict"),
    });
    let mut lease = agent(&api, "a");
    holder.lock().unwrap().clone_from(&lease.me);
    lease.held = Some(Instant::now());
    lease.release().await.unwrap();
    let written = api.asked(&Method::PUT, NAME);
    assert_eq!(written[0].body["metadata"]["resourceVersion"], "1");
}
