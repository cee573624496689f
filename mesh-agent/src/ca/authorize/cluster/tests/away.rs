//! While the API server is away: what it said last counts, and nothing more.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;

const AGENT_UID: &str = "uid-of-the-agent";

/// A token as a service account's, which expires so many seconds from now.
fn token(seconds: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let exp = i64::try_from(now.as_secs()).unwrap() + seconds;
    let claims = URL_SAFE_NO_PAD.encode(json!({"exp": exp}).to_string());
    format!("e30.{claims}.signature")
}

fn agent_pod(node: &str, phase: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "agent-1", "namespace": "isthmus-system", "uid": AGENT_UID,
            "resourceVersion": "2"},
        "spec": {"nodeName": node, "serviceAccountName": "isthmus-agent", "containers": []},
        "status": {"phase": phase}})
}

/// The agent of node-1 bears tokens that are bound to its pod; `web` runs on its node.
fn cluster() -> Arc<Cluster> {
    let cluster = Cluster::new();
    cluster.review(|| {
        let extra = json!({(review::NODE): ["node-1"], (review::POD): ["agent-1"],
            (review::POD_UID): [AGENT_UID]});
        Reply::Json(review(&status(&json!(["isthmus-ca"]), AGENT, &extra)))
    });
    cluster.list(|| {
        let pods = [
            pod("1", "web", "node-1", "Running"),
            agent_pod("node-1", "Running"),
        ];
        Reply::Json(list("Pod", &pods))
    });
    cluster
}

/// One that has heard of the pods.
async fn informed(api: &FakeApi) -> ClusterAuthorizer {
    let authorizer = authorizer(api);
    synced(api).await;
    authorizer
}

/// No question is answered any more but with `reply`, and watches end.
fn leaves(cluster: &Cluster, reply: fn() -> Reply) {
    cluster.review(reply);
    cluster.list(reply);
    *cluster.unwatchable.lock().unwrap() = Some(reply);
    cluster.watchers.lock().unwrap().clear();
}

/// Until the end of the watch was noticed.
async fn unheard(authorizer: &ClusterAuthorizer) {
    while authorizer.pods.knows(&WEB) {
        later().await;
        tokio::task::yield_now().await;
    }
}

const WEB: pods::Place<'static> = pods::Place {
    node: "node-1",
    namespace: "shop",
    account: "web",
};

fn gone() -> Reply {
    Reply::Fail(503, "ServiceUnavailable")
}

/// Until what was said of tokens is not as good as new any more.
async fn later() {
    tokio::time::advance(answers::TTL).await;
}

#[tokio::test]
async fn what_it_said_last_counts_until_the_token_expires() {
    tokio::time::pause();
    for (reply, hangs) in [(gone as fn() -> Reply, false), (|| Reply::Never, true)] {
        let cluster = cluster();
        let api = cluster.api();
        let authorizer = informed(&api).await;
        let (good, over) = (token(3600), token(-1));
        for token in [&good, &over] {
            authorizer.authenticate(token, FROM).await.unwrap();
        }
        leaves(&cluster, reply);
        later().await;
        if !hangs {
            unheard(&authorizer).await;
        }
        let caller = authorizer.authenticate(&good, FROM).await.unwrap();
        assert_eq!(caller, node("node-1"));
        authorizer.authorize(&caller, &id("web")).await.unwrap();

        for token in [&over, &token(3601), "no token at all"] {
            let denied = authorizer.authenticate(token, FROM).await;
            assert!(matches!(denied, Err(Denial::Unavailable(_))), "{token}");
        }
        for (name, account) in [("node-1", "db"), ("node-2", "web")] {
            let denied = authorizer.authorize(&node(name), &id(account)).await;
            assert!(matches!(denied, Err(Denial::Unavailable(_))), "{name}");
        }
    }
}

#[tokio::test]
async fn what_was_gone_before_it_left_stays_gone() {
    tokio::time::pause();
    let cluster = cluster();
    let api = cluster.api();
    let authorizer = informed(&api).await;
    let token = token(3600);
    authorizer.authenticate(&token, FROM).await.unwrap();
    cluster.tell("DELETED", &pod("1", "web", "node-1", "Running"));
    cluster.tell("MODIFIED", &agent_pod("node-1", "Failed"));
    // The watch tells in order: with this one both are known.
    cluster.tell("ADDED", &pod("3", "last", "node-1", "Running"));
    cluster.list(gone);
    while authorizer
        .authorize(&node("node-1"), &id("last"))
        .await
        .is_err()
    {
        tokio::task::yield_now().await;
    }
    leaves(&cluster, gone);
    later().await;
    let denied = authorizer.authenticate(&token, FROM).await;
    assert!(matches!(denied, Err(Denial::Unavailable(_))));
    let denied = authorizer.authorize(&node("node-1"), &id("web")).await;
    assert!(matches!(denied, Err(Denial::Unavailable(_))));
}

#[tokio::test]
async fn a_token_that_was_withdrawn_does_not_come_back() {
    tokio::time::pause();
    let cluster = cluster();
    let api = cluster.api();
    let authorizer = informed(&api).await;
    let token = token(3600);
    authorizer.authenticate(&token, FROM).await.unwrap();
    later().await;
    cluster.review(|| Reply::Json(review(&json!({"authenticated": false}))));
    let denied = authorizer.authenticate(&token, FROM).await;
    assert!(matches!(denied, Err(Denial::UnknownToken)));
    leaves(&cluster, gone);
    let denied = authorizer.authenticate(&token, FROM).await;
    assert!(matches!(denied, Err(Denial::Unavailable(_))));
}

/// An authority that may not ask has no ground to go on with what it was told.
#[tokio::test]
async fn an_api_that_says_no_is_not_away() {
    tokio::time::pause();
    for no in [(|| Reply::Fail(403, "Forbidden")) as fn() -> Reply, || {
        Reply::Fail(401, "Unauthorized")
    }] {
        let cluster = cluster();
        let api = cluster.api();
        let authorizer = informed(&api).await;
        let token = token(3600);
        authorizer.authenticate(&token, FROM).await.unwrap();
        leaves(&cluster, no);
        later().await;
        let denied = authorizer.authenticate(&token, FROM).await;
        assert!(matches!(denied, Err(Denial::Unavailable(_))));
        unheard(&authorizer).await;
        let denied = authorizer.authorize(&node("node-1"), &id("web")).await;
        assert!(matches!(denied, Err(Denial::Unavailable(_))));
    }
}

#[tokio::test]
async fn a_token_that_is_bound_to_no_pod_is_asked_about_each_time() {
    tokio::time::pause();
    let cluster = cluster();
    cluster.review(|| Reply::Json(good()));
    let api = cluster.api();
    let authorizer = informed(&api).await;
    let token = token(3600);
    authorizer.authenticate(&token, FROM).await.unwrap();
    leaves(&cluster, gone);
    later().await;
    let denied = authorizer.authenticate(&token, FROM).await;
    assert!(matches!(denied, Err(Denial::Unavailable(_))));
}
