use std::sync::Mutex;

use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::kubernetes::testing::{FakeApi, Reply};

const LEASE: &str = "/leases/isthmus-status";

/// Keeps the lease, and has nothing else. Falls silent once it was read `reads` times.
fn server(reads: usize) -> FakeApi {
    let kept = Mutex::new((Value::Null, 0));
    FakeApi::new(move |asked| {
        if !asked.path.contains("/leases") {
            return Reply::Fail(404, "NotFound");
        }
        let (lease, read) = &mut *kept.lock().unwrap();
        if asked.method == Method::GET {
            *read += 1;
            if *read > reads {
                return Reply::Never;
            }
        } else {
            *lease = asked.body.clone();
            lease["metadata"]["resourceVersion"] = json!("1");
        }
        match lease {
            Value::Null => Reply::Fail(404, "NotFound"),
            lease => Reply::Json(lease.clone()),
        }
    })
}

async fn holder(api: &FakeApi) -> Writer {
    let writer = Writer::new(api.client(), "a", "isthmus-system");
    writer.update(Snapshot::default());
    api.wait(&Method::POST, "/leases", 1).await;
    // The answer is read before its task is asked anything else.
    tokio::time::sleep(Duration::from_millis(1)).await;
    writer
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_ends_leaves_the_policies_to_another() {
    let api = server(usize::MAX);
    let writer = holder(&api).await;
    assert!(api.asked(&Method::PUT, LEASE).is_empty());
    writer.end().await;
    let written = api.asked(&Method::PUT, LEASE).pop().unwrap().body;
    assert_eq!(written["spec"]["holderIdentity"], Value::Null);
    assert_eq!(written["metadata"]["resourceVersion"], "1");
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_keeps_nobody_from_ending() {
    let api = server(1);
    let writer = holder(&api).await;
    let began = Instant::now();
    writer.end().await;
    // By the paused clock, which only the limit moves on.
    assert_eq!(began.elapsed(), LIMIT);
    assert_eq!(api.asked(&Method::GET, LEASE).len(), 2, "it was tried");
}
