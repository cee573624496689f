use std::sync::Mutex;

use http::Method;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::identity::fixtures::id;
use crate::kubernetes::testing::{Asked, FakeApi, Reply, event, is_watch, list};

/// Where callers call from.
const FROM: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

mod away;

const TOKEN: &str = "a token of the agent on node-1";

/// A cluster that a test changes as it goes.
struct Cluster {
    review: Mutex<Box<dyn Fn() -> Reply + Send>>,
    /// What lists of pods answer.
    listed: Mutex<Box<dyn Fn() -> Reply + Send>>,
    agent_pod: Mutex<Value>,
    watchers: Mutex<Vec<mpsc::UnboundedSender<Value>>>,
    /// What new watches are answered instead of being watches.
    unwatchable: Mutex<Option<fn() -> Reply>>,
}

impl Cluster {
    /// The agent of node-1 is authenticated; one pod of the account `web` runs there.
    fn new() -> Arc<Self> {
        Arc::new(Self {
            review: Mutex::new(Box::new(|| Reply::Json(good()))),
            listed: Mutex::new(Box::new(|| {
                Reply::Json(list("Pod", &[pod("1", "web", "node-1", "Running")]))
            })),
            agent_pod: Mutex::default(),
            watchers: Mutex::default(),
            unwatchable: Mutex::default(),
        })
    }

    fn api(self: &Arc<Self>) -> FakeApi {
        let cluster = Arc::clone(self);
        FakeApi::new(move |asked| cluster.answer(asked))
    }

    fn answer(&self, asked: &Asked) -> Reply {
        match asked.path.as_str() {
            "/apis/authentication.k8s.io/v1/tokenreviews" => {
                assert_eq!(asked.body["spec"]["audiences"], json!(["isthmus-ca"]));
                self.review.lock().unwrap()()
            }
            "/api/v1/namespaces/isthmus-system/pods/agent-1" => {
                match self.agent_pod.lock().unwrap().clone() {
                    Value::Null => Reply::Fail(404, "NotFound"),
                    pod => Reply::Json(pod),
                }
            }
            _ if is_watch(asked) => {
                if let Some(reply) = *self.unwatchable.lock().unwrap() {
                    return reply();
                }
                let (tell, told) = mpsc::unbounded_channel();
                self.watchers.lock().unwrap().push(tell);
                Reply::Watch(told)
            }
            _ => self.listed.lock().unwrap()(),
        }
    }

    fn review(&self, reply: impl Fn() -> Reply + Send + 'static) {
        *self.review.lock().unwrap() = Box::new(reply);
    }

    fn list(&self, reply: impl Fn() -> Reply + Send + 'static) {
        *self.listed.lock().unwrap() = Box::new(reply);
    }

    fn tell(&self, kind: &str, pod: &Value) {
        let watchers = self.watchers.lock().unwrap();
        watchers.last().unwrap().send(event(kind, pod)).unwrap();
    }
}

fn authorizer(api: &FakeApi) -> ClusterAuthorizer {
    let agents = "isthmus-system/isthmus-agent".parse().unwrap();
    ClusterAuthorizer::new(api.client(), "isthmus-ca", agents)
}

fn review(status: &Value) -> Value {
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": ""}, "status": status})
}

fn status(audiences: &Value, username: &str, extra: &Value) -> Value {
    json!({"authenticated": true, "audiences": audiences,
        "user": {"username": username, "extra": extra}})
}

const AGENT: &str = "system:serviceaccount:isthmus-system:isthmus-agent";

fn good() -> Value {
    let extra = json!({(review::NODE): ["node-1"]});
    review(&status(&json!(["isthmus-ca"]), AGENT, &extra))
}

fn pod(uid: &str, account: &str, node: &str, phase: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{uid}"), "namespace": "shop", "uid": uid,
            "resourceVersion": "2"},
        "spec": {"nodeName": node, "serviceAccountName": account, "containers": []},
        "status": {"phase": phase}})
}

fn node(name: &str) -> Requester {
    Requester { node: name.into() }
}

/// The watch has its first list.
async fn synced(api: &FakeApi) {
    while !api.asked(&Method::GET, "/api/v1/pods").iter().any(is_watch) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_agent_is_known_by_its_node_and_asked_about_once_in_a_while() {
    tokio::time::pause();
    let cluster = Cluster::new();
    let api = cluster.api();
    let authorizer = authorizer(&api);
    for _ in 0..3 {
        let caller = authorizer.authenticate(TOKEN, FROM).await.unwrap();
        assert_eq!(caller, node("node-1"));
    }
    let path = "/tokenreviews";
    assert_eq!(api.asked(&Method::POST, path).len(), 1);
    cluster.review(|| Reply::Json(review(&json!({"authenticated": false}))));
    tokio::time::advance(answers::TTL).await;
    let late = authorizer.authenticate(TOKEN, FROM).await;
    assert!(matches!(late, Err(Denial::UnknownToken)));
    // A refusal is not kept of a token that was good once.
    cluster.review(|| Reply::Json(good()));
    authorizer.authenticate(TOKEN, FROM).await.unwrap();
    assert_eq!(api.asked(&Method::POST, path).len(), 3);
}

#[tokio::test]
async fn authenticate_asks_once_about_a_worthless_token_and_again_later() {
    tokio::time::pause();
    let cluster = Cluster::new();
    let api = cluster.api();
    let authorizer = authorizer(&api);
    cluster.review(|| Reply::Json(review(&json!({"authenticated": false}))));
    for _ in 0..1000 {
        let denied = authorizer.authenticate("worthless", FROM).await;
        assert!(matches!(denied, Err(Denial::UnknownToken)), "{denied:?}");
    }
    let path = "/tokenreviews";
    assert_eq!(api.asked(&Method::POST, path).len(), 1);
    // The API server learnt of it late.
    cluster.review(|| Reply::Json(good()));
    tokio::time::advance(denials::TTL).await;
    authorizer.authenticate("worthless", FROM).await.unwrap();
    assert_eq!(api.asked(&Method::POST, path).len(), 2);
}

#[tokio::test]
async fn authenticate_bounds_the_reviews_of_one_source_and_serves_the_others() {
    tokio::time::pause();
    let cluster = Cluster::new();
    let api = cluster.api();
    let authorizer = authorizer(&api);
    authorizer.authenticate(TOKEN, FROM).await.unwrap();
    cluster.review(|| Reply::Json(review(&json!({"authenticated": false}))));
    let mut too_many = 0;
    for number in 0..1000 {
        let denied = authorizer
            .authenticate(&format!("guess {number}"), FROM)
            .await;
        too_many += usize::from(matches!(denied, Err(Denial::TooMany)));
    }
    let reviewed = api.asked(&Method::POST, "/tokenreviews").len() - 1;
    assert_eq!(
        (reviewed, too_many),
        (reviews::BURST as usize, 1000 - reviewed)
    );
    cluster.review(|| Reply::Json(good()));
    // An agent elsewhere, and one at the same address that was known before.
    let elsewhere = [10, 0, 0, 9].into();
    authorizer.authenticate("new", elsewhere).await.unwrap();
    tokio::time::advance(answers::TTL).await;
    authorizer.authenticate(TOKEN, FROM).await.unwrap();
    // A stranger at that address has to wait.
    tokio::time::advance(reviews::REFILL).await;
    authorizer.authenticate("newer", FROM).await.unwrap();
}

#[tokio::test]
async fn one_token_does_not_speak_for_another() {
    let cluster = Cluster::new();
    let authorizer = authorizer(&cluster.api());
    authorizer.authenticate(TOKEN, FROM).await.unwrap();
    cluster.review(|| Reply::Json(review(&json!({"authenticated": false}))));
    let other = authorizer.authenticate("another", FROM).await;
    assert!(matches!(other, Err(Denial::UnknownToken)));
}

#[tokio::test]
async fn what_the_api_does_not_say_outright_is_refused() {
    let ours = json!(["isthmus-ca"]);
    let extra = json!({(review::NODE): ["node-1"]});
    let other = "system:serviceaccount:isthmus-system:default";
    let mut unclear = status(&ours, AGENT, &extra);
    unclear["authenticated"] = json!(false);
    let mut missing = status(&ours, AGENT, &extra);
    missing.as_object_mut().unwrap().remove("audiences");
    let cases = [
        ("no status", Value::Null, "UnknownToken"),
        (
            "no user",
            json!({"authenticated": true, "audiences": ours}),
            "UnknownToken",
        ),
        ("not authenticated", unclear, "UnknownToken"),
        ("no audience", missing, "UnknownToken"),
        (
            "other audience",
            status(&json!(["api"]), AGENT, &extra),
            "UnknownToken",
        ),
        (
            "other account",
            status(&ours, other, &extra),
            "OtherAccount",
        ),
        (
            "a person",
            status(&ours, "isthmus-system/isthmus-agent", &extra),
            "OtherAccount",
        ),
        ("unbound", status(&ours, AGENT, &json!({})), "NoNode"),
        (
            "two nodes",
            status(&ours, AGENT, &json!({(review::NODE): ["a", "b"]})),
            "NoNode",
        ),
        (
            "empty node",
            status(&ours, AGENT, &json!({(review::NODE): [""]})),
            "NoNode",
        ),
        (
            "pod without UID",
            status(&ours, AGENT, &json!({(review::POD): ["agent-1"]})),
            "NoNode",
        ),
    ];
    let cluster = Cluster::new();
    let authorizer = authorizer(&cluster.api());
    for (case, status, expected) in cases {
        cluster.review(move || Reply::Json(review(&status)));
        // Each with its own token, since refusals are kept.
        let denial = authorizer.authenticate(case, FROM).await.unwrap_err();
        assert!(
            format!("{denial:?}").starts_with(expected),
            "{case}: {denial:?}"
        );
    }
}

#[tokio::test]
async fn an_older_api_server_tells_the_pod_and_the_pod_tells_the_node() {
    let cluster = Cluster::new();
    let extra = json!({(review::POD): ["agent-1"], (review::POD_UID): ["u1"]});
    let bound = review(&status(&json!(["isthmus-ca"]), AGENT, &extra));
    cluster.review(move || Reply::Json(bound.clone()));
    let authorizer = authorizer(&cluster.api());
    let agent = |uid: &str, node: &str| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "agent-1", "namespace": "isthmus-system", "uid": uid},
            "spec": {"nodeName": node, "containers": []}})
    };
    for gone in [Value::Null, agent("u2", "node-1"), agent("u1", "")] {
        *cluster.agent_pod.lock().unwrap() = gone.clone();
        let denied = authorizer.authenticate(&gone.to_string(), FROM).await;
        assert!(matches!(denied, Err(Denial::NoNode)), "{gone}");
    }
    *cluster.agent_pod.lock().unwrap() = agent("u1", "node-1");
    assert_eq!(
        authorizer.authenticate(TOKEN, FROM).await.unwrap(),
        node("node-1")
    );
}

#[tokio::test]
async fn an_api_that_fails_or_is_slow_grants_nothing() {
    tokio::time::pause();
    let cluster = Cluster::new();
    cluster.list(|| Reply::Fail(500, "InternalError"));
    let authorizer = authorizer(&cluster.api());
    for slow in [false, true] {
        let reply = move || {
            if slow {
                Reply::Never
            } else {
                Reply::Fail(403, "Forbidden")
            }
        };
        cluster.review(reply);
        cluster.list(reply);
        let denied = authorizer.authenticate(TOKEN, FROM).await;
        assert!(matches!(denied, Err(Denial::Unavailable(_))), "{slow}");
        let denied = authorizer.authorize(&node("node-1"), &id("web")).await;
        assert!(matches!(denied, Err(Denial::Unavailable(_))), "{slow}");
    }
}

#[tokio::test]
async fn a_node_gets_what_runs_on_it_and_nothing_else() {
    let cluster = Cluster::new();
    let api = cluster.api();
    let authorizer = authorizer(&api);
    synced(&api).await;
    // What the list says is not taken for the answer to every question.
    for (name, account) in [("node-2", "web"), ("node-1", "db"), ("", "web")] {
        let denied = authorizer.authorize(&node(name), &id(account)).await;
        assert!(
            matches!(denied, Err(Denial::NotOnNode { .. })),
            "{name} {account}"
        );
    }
    let elsewhere = SpiffeId::new(id("web").trust_domain().clone(), "bank", "web").unwrap();
    let denied = authorizer.authorize(&node("node-1"), &elsewhere).await;
    assert!(matches!(denied, Err(Denial::NotOnNode { .. })));
    let asked = api.asked(&Method::GET, "/namespaces/shop/pods").len();
    authorizer
        .authorize(&node("node-1"), &id("web"))
        .await
        .unwrap();
    let after = api.asked(&Method::GET, "/namespaces/shop/pods").len();
    assert_eq!(asked, after, "the watch knew");
}

#[tokio::test]
async fn a_pod_that_the_watch_has_not_told_is_asked_for() {
    let cluster = Cluster::new();
    let api = cluster.api();
    let authorizer = authorizer(&api);
    synced(&api).await;
    cluster.list(|| Reply::Json(list("Pod", &[pod("2", "db", "node-1", "Pending")])));
    authorizer
        .authorize(&node("node-1"), &id("db"))
        .await
        .unwrap();
    let asked = api.asked(&Method::GET, "/namespaces/shop/pods");
    let query = &asked.last().unwrap().query;
    assert!(
        query.contains("spec.nodeName=node-1,spec.serviceAccountName=db"),
        "{query}"
    );
    cluster.list(|| Reply::Json(list("Pod", &[pod("2", "db", "node-1", "Succeeded")])));
    let finished = authorizer.authorize(&node("node-1"), &id("db")).await;
    assert!(matches!(finished, Err(Denial::NotOnNode { .. })));
}

#[tokio::test]
async fn a_change_that_the_watch_tells_counts_at_once() {
    let cluster = Cluster::new();
    let api = cluster.api();
    let authorizer = authorizer(&api);
    synced(&api).await;
    // From here on only the watch tells anything.
    cluster.list(|| Reply::Fail(503, "ServiceUnavailable"));
    cluster.tell("ADDED", &pod("2", "db", "node-1", "Pending"));
    cluster.tell("DELETED", &pod("1", "web", "node-1", "Running"));
    let gone = async {
        while authorizer
            .authorize(&node("node-1"), &id("web"))
            .await
            .is_ok()
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone)
        .await
        .unwrap();
    authorizer
        .authorize(&node("node-1"), &id("db"))
        .await
        .unwrap();
}
