//! Tokens and rights, as an API server that the test plays knows them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::*;
use crate::kubernetes::testing::{Asked, FakeApi, Reply};

struct Fixture {
    access: ClusterAccess,
    questions: Arc<AtomicUsize>,
}

/// `prometheus` may see metrics, `web` may not, other tokens are unknown.
fn answer(asked: &Asked) -> Reply {
    match asked.path.as_str() {
        "/apis/authentication.k8s.io/v1/tokenreviews" => {
            let token = asked.body["spec"]["token"].as_str().unwrap_or_default();
            let status = match token {
                "prometheus" | "web" => json!({
                    "authenticated": true,
                    "user": {"username": token, "groups": ["system:authenticated"]},
                }),
                "down" => return Reply::Fail(503, "ServiceUnavailable"),
                _ => json!({"authenticated": false, "error": "no such token"}),
            };
            Reply::Json(review(asked, &status))
        }
        "/apis/authorization.k8s.io/v1/subjectaccessreviews" => {
            let spec = &asked.body["spec"];
            assert_eq!(
                spec["nonResourceAttributes"],
                json!({"path": "/metrics", "verb": "get"})
            );
            assert_eq!(spec["groups"], json!(["system:authenticated"]));
            let allowed = spec["user"] == "prometheus";
            Reply::Json(review(asked, &json!({"allowed": allowed})))
        }
        other => panic!("{other} was asked"),
    }
}

fn review(asked: &Asked, status: &Value) -> Value {
    let mut review = asked.body.clone();
    review["status"] = status.clone();
    review
}

fn fixture() -> Fixture {
    let questions = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&questions);
    let api = FakeApi::new(move |asked: &Asked| {
        count.fetch_add(1, Ordering::Relaxed);
        answer(asked)
    });
    Fixture {
        access: ClusterAccess::new(api.client()),
        questions,
    }
}

fn status(scrape: &Scrape) -> Option<u16> {
    match scrape {
        Scrape::Refused(status, _) => Some(status.as_u16()),
        _ => None,
    }
}

#[tokio::test]
async fn decide_asks_who_bears_the_token_and_what_the_bearer_may() {
    let Fixture { access, .. } = fixture();
    let now = Instant::now();
    let decided = access.decide_at("prometheus", now).await;
    assert_eq!(decided, Scrape::Named);
    for (token, code) in [("web", 403), ("made up", 401), ("down", 503)] {
        let decided = access.decide_at(token, now).await;
        assert_eq!(status(&decided), Some(code), "{token}: {decided:?}");
    }
}

#[tokio::test]
async fn decide_remembers_answers_for_a_while_and_outages_not_at_all() {
    let Fixture { access, questions } = fixture();
    let now = Instant::now();
    let asked = async |token: &str, at: Instant| {
        let before = questions.load(Ordering::Relaxed);
        access.decide_at(token, at).await;
        questions.load(Ordering::Relaxed) - before
    };
    assert_eq!(asked("prometheus", now).await, 2);
    assert_eq!(asked("prometheus", now + GOOD_FOR / 2).await, 0);
    assert_eq!(asked("prometheus", now + GOOD_FOR).await, 2);
    assert_eq!(asked("made up", now).await, 1);
    assert_eq!(asked("made up", now + BAD_FOR / 2).await, 0);
    assert_eq!(asked("made up", now + BAD_FOR).await, 1);
    assert!(asked("down", now).await > 0);
    assert!(asked("down", now).await > 0);
}

#[tokio::test]
async fn remembered_answers_are_bounded() {
    let Fixture { access, .. } = fixture();
    let now = Instant::now();
    access.decide_at("prometheus", now).await;
    for n in 0..2 * MAX_ANSWERS {
        access.remember(hash(&n.to_string()), Scrape::Nameless, now);
    }
    let answers = access.answers.lock().unwrap();
    assert_eq!(answers.len(), MAX_ANSWERS);
    assert!(
        answers.contains_key(&hash("prometheus")),
        "a right that lasts longer goes last"
    );
}
