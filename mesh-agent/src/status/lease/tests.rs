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
