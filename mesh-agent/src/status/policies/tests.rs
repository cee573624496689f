use std::sync::{Arc, Mutex};

use http::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::*;
use crate::kubernetes::testing::{Asked, FakeApi, Reply, list};
use crate::status::lease;

/// A cluster with policies, whose API server can do what the test says.
#[derive(Default)]
struct Cluster {
    policies: Mutex<Vec<Value>>,
    lease: Mutex<Value>,
    /// The version under which the kinds are served; neither if empty.
    version: &'static str,
    /// How writing a status fails, if it does.
    fails: Mutex<Option<u16>>,
}

const STATUS: &str = "/status";

impl Cluster {
    fn new(version: &'static str, names: &[&str]) -> Arc<Self> {
        let policy = |name: &&str| {
            json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
                "metadata": {"name": name, "namespace": "shop", "generation": 2,
                    "resourceVersion": "7"},
                "spec": {}})
        };
        Arc::new(Self {
            policies: Mutex::new(names.iter().map(policy).collect()),
            version,
            ..Self::default()
        })
    }

    fn api(self: &Arc<Self>) -> FakeApi {
        let cluster = Arc::clone(self);
        FakeApi::new(move |asked| cluster.answer(asked))
    }

    fn answer(&self, asked: &Asked) -> Reply {
        if asked.path.contains("/leases") {
            let mut lease = self.lease.lock().unwrap();
            if asked.method != Method::GET {
                *lease = asked.body.clone();
            }
            return match lease.clone() {
                Value::Null => Reply::Fail(404, "NotFound"),
                lease => Reply::Json(lease),
            };
        }
        let mut policies = self.policies.lock().unwrap();
        if asked.method == Method::PATCH {
            if let Some(code) = *self.fails.lock().unwrap() {
                return Reply::Fail(code, "Failed");
            }
            let name = asked.path.split('/').nth_back(1).unwrap();
            let found = policies.iter_mut().find(|p| p["metadata"]["name"] == name);
            let policy = found.unwrap();
            policy["status"] = asked.body["status"].clone();
            return Reply::Json(policy.clone());
        }
        let wanted = format!(
            "/apis/security.istio.io/{}/peerauthentications",
            self.version
        );
        if asked.path == wanted {
            Reply::Json(list("PeerAuthentication", &policies))
        } else {
            Reply::Fail(404, "NotFound")
        }
    }
}

fn told(names: &[&str], generation: i64) -> Arc<Snapshot> {
    let policy = |name: &&str| PolicyStatus {
        kind: PolicyKind::PeerAuthentication,
        namespace: "shop".into(),
        name: (*name).into(),
        generation,
        problems: Vec::new(),
    };
    Arc::new(Snapshot {
        policies: names.iter().map(policy).collect(),
        pods: Vec::new(),
    })
}

/// One agent's task; ends when it is dropped.
struct Agent {
    tell: watch::Sender<Option<Arc<Snapshot>>>,
    _task: JoinSet<()>,
}

fn agent(api: &FakeApi) -> Agent {
    let (tell, latest) = watch::channel(None);
    let mut task = JoinSet::new();
    let lease = Lease::new(api.client(), "isthmus-system", "a");
    task.spawn(write(api.client(), lease, latest));
    Agent { tell, _task: task }
}

#[tokio::test(start_paused = true)]
async fn each_policy_is_written_once_and_again_when_somebody_else_wrote() {
    for version in VERSIONS {
        let cluster = Cluster::new(version, &["one", "two"]);
        let api = cluster.api();
        let agent = agent(&api);
        agent.tell.send_replace(Some(told(&["one", "two"], 2)));
        let written = api.wait(&Method::PATCH, STATUS, 2).await;
        assert!(written[0].query.contains("fieldManager=isthmus"));
        assert_eq!(written[0].body["metadata"]["resourceVersion"], "7");
        assert_eq!(written[0].body["status"]["conditions"][0]["status"], "True");
        // An hour later nothing is different, and nothing was written.
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(api.asked(&Method::PATCH, STATUS).len(), 2);
        cluster.policies.lock().unwrap()[1]["status"] = json!({"conditions": []});
        let written = api.wait(&Method::PATCH, STATUS, 3).await;
        assert!(written[2].path.ends_with("/two/status"));
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_said_of_what_was_not_read() {
    let cluster = Cluster::new("v1", &["one", "other"]);
    let api = cluster.api();
    let agent = agent(&api);
    // Another generation, and the other policy not at all.
    agent.tell.send_replace(Some(told(&["one"], 1)));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(api.asked(&Method::PATCH, STATUS).is_empty());
    agent.tell.send_replace(Some(told(&["one"], 2)));
    let written = api.wait(&Method::PATCH, STATUS, 1).await;
    assert!(written[0].path.ends_with("/one/status"));
}

#[tokio::test(start_paused = true)]
async fn an_agent_without_the_lease_writes_nothing() {
    let cluster = Cluster::new("v1", &["one"]);
    let api = cluster.api();
    let first = agent(&api);
    first.tell.send_replace(Some(told(&[], 2)));
    api.wait(&Method::POST, "/leases", 1).await;
    let second = agent(&api);
    second.tell.send_replace(Some(told(&["one"], 2)));
    // The fake keeps one version, so it is the renewed time that tells a live holder.
    tokio::time::sleep(lease::DURATION / 2).await;
    assert!(api.asked(&Method::PATCH, STATUS).is_empty());
    drop(first);
    api.wait(&Method::PATCH, STATUS, 1).await;
}

#[tokio::test(start_paused = true)]
async fn errors_are_tried_again_ever_more_slowly() {
    let cluster = Cluster::new("v1", &["one"]);
    *cluster.fails.lock().unwrap() = Some(500);
    let api = cluster.api();
    let agent = agent(&api);
    agent.tell.send_replace(Some(told(&["one"], 2)));
    tokio::time::sleep(Duration::from_secs(600)).await;
    let tries = api.asked(&Method::PATCH, STATUS).len();
    assert!((2..=600).contains(&tries), "{tries} tries in ten minutes");
    *cluster.fails.lock().unwrap() = None;
    api.wait(&Method::PATCH, STATUS, tries + 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_cluster_without_the_kinds_is_left_alone() {
    let cluster = Cluster::new("", &[]);
    let api = cluster.api();
    let agent = agent(&api);
    agent.tell.send_replace(Some(told(&["one"], 2)));
    tokio::time::sleep(Duration::from_secs(600)).await;
    let lists = api.asked(&Method::GET, "/peerauthentications");
    assert!((2..=30).contains(&lists.len()), "{} lists", lists.len());
}
