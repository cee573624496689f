use std::sync::Mutex;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::kubernetes::testing::{FakeApi, Reply, event, is_watch, list};

const DAEMON_SET: &str = "/apis/apps/v1/namespaces/isthmus-system/daemonsets/isthmus-agent";
const NAMESPACES: &str = "/api/v1/namespaces";

/// What is decided where the server answers so.
async fn decided(reply: impl Fn() -> Reply + Send + Sync + 'static) -> Farewell {
    let api = FakeApi::new(move |asked| match asked.path.as_str() {
        NAMESPACES => Reply::Never,
        path => {
            assert_eq!((asked.method.as_str(), path), ("GET", DAEMON_SET));
            reply()
        }
    });
    Asks::of(api.client()).decide().await
}

fn metadata(name: &str, deleted: &Value) -> Value {
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
        "metadata": {"name": name, "resourceVersion": "2", "deletionTimestamp": deleted}})
}

fn daemon_set(deleted: &Value) -> Value {
    metadata("isthmus-agent", deleted)
}

#[tokio::test]
async fn the_node_leaves_with_the_daemon_set_alone() {
    let there = decided(|| Reply::Json(daemon_set(&Value::Null))).await;
    assert!(matches!(there, Farewell::Stays(_)), "{there:?}");
    let going = decided(|| Reply::Json(daemon_set(&json!("2026-01-01T00:00:00Z")))).await;
    assert!(matches!(going, Farewell::Uninstalled(_)), "{going:?}");
    let gone = decided(|| Reply::Fail(404, "NotFound")).await;
    assert!(matches!(gone, Farewell::Uninstalled(_)), "{gone:?}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_asked_leaves_the_pods_guarded() {
    // The last: a server, or what stands in its place, that does not know the kind.
    for (code, reason) in [
        (401, "Unauthorized"),
        (403, "Forbidden"),
        (500, "InternalError"),
        (404, ""),
    ] {
        let decided = decided(move || Reply::Fail(code, reason)).await;
        let Farewell::Stays(why) = decided else {
            panic!("{code}: {decided:?}")
        };
        assert!(why.contains("cannot be asked"), "{why}");
    }
    let silent = decided(|| Reply::Never).await;
    let Farewell::Stays(why) = silent else {
        panic!("{silent:?}")
    };
    assert!(why.contains("within 3 s"), "{why}");
}

/// Who deletes the namespace, or everything of `deploy/` at once, deletes the pods before their
/// DaemonSet, and what lets agents ask before both.
#[tokio::test(start_paused = true)]
async fn the_node_leaves_with_the_namespace_too() {
    for last_words in [
        || Reply::Json(daemon_set(&Value::Null)),
        || Reply::Fail(401, "Unauthorized"),
        || Reply::Fail(403, "Forbidden"),
        || Reply::Never,
    ] {
        let (tell, told) = mpsc::unbounded_channel();
        let told = Mutex::new(Some(told));
        let api = FakeApi::new(move |asked| match asked.path.as_str() {
            NAMESPACES if is_watch(asked) => {
                Reply::Watch(told.lock().unwrap().take().expect("one watch"))
            }
            NAMESPACES => Reply::Json(list(
                "PartialObjectMetadata",
                &[metadata(install::NAMESPACE, &Value::Null)],
            )),
            _ => last_words(),
        });
        let mut asks = Asks::of(api.client());
        let before = asks.decide().await;
        assert!(matches!(before, Farewell::Stays(_)), "{before:?}");
        let going = metadata(install::NAMESPACE, &json!("2026-01-01T00:00:00Z"));
        tell.send(event("MODIFIED", &going)).unwrap();
        asks.removal.begins().await;
        let after = asks.decide().await;
        assert_eq!(
            after,
            Farewell::Uninstalled("the agents' namespace is being removed")
        );
    }
}
