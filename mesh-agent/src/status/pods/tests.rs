use std::sync::{Arc, Mutex};

use http::Method;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::*;
use crate::kubernetes::testing::{Asked, FakeApi, Reply, event, is_watch, list};

const STATUS: &str = "/web/status";
const EVENTS: &str = "/namespaces/shop/events";

/// A node with the pod `shop/web`.
#[derive(Default)]
struct Node {
    annotation: Mutex<Option<String>>,
    /// Whether the pod is being deleted.
    is_going: bool,
    /// Names of the events that are there.
    events: Mutex<Vec<String>>,
    watchers: Mutex<Vec<mpsc::UnboundedSender<Value>>>,
    fails: Mutex<Option<u16>>,
}

impl Node {
    fn new(annotation: Option<&str>) -> Arc<Self> {
        Arc::new(Self {
            annotation: Mutex::new(annotation.map(str::to_owned)),
            ..Self::default()
        })
    }

    fn api(self: &Arc<Self>) -> FakeApi {
        let node = Arc::clone(self);
        FakeApi::new(move |asked| node.answer(asked))
    }

    fn answer(&self, asked: &Asked) -> Reply {
        if asked.path.ends_with("/pods") {
            assert!(
                asked.query.contains("fieldSelector=spec.nodeName=n1"),
                "{}",
                asked.query
            );
            if is_watch(asked) {
                let (tell, told) = mpsc::unbounded_channel();
                self.watchers.lock().unwrap().push(tell);
                return Reply::Watch(told);
            }
            return Reply::Json(list("PartialObjectMetadata", &[self.pod()]));
        }
        if let Some(code) = *self.fails.lock().unwrap() {
            return Reply::Fail(code, "Failed");
        }
        if asked.path.contains("/events") {
            let mut events = self.events.lock().unwrap();
            let name = asked.body["metadata"]["name"].as_str().unwrap_or_default();
            if asked.method == Method::POST && events.iter().any(|there| there == name) {
                return Reply::Fail(409, "AlreadyExists");
            }
            events.push(name.to_owned());
            return Reply::Json(json!({"apiVersion": "events.k8s.io/v1", "kind": "Event",
                "metadata": {}, "eventTime": null}));
        }
        assert_eq!(asked.body["metadata"]["uid"], "u1");
        let annotation = asked.body["metadata"]["annotations"]["isthmus.dev/status"].as_str();
        self.set(annotation);
        let mut whole = self.pod();
        (whole["apiVersion"], whole["kind"]) = (json!("v1"), json!("Pod"));
        Reply::Json(whole)
    }

    /// As somebody writes it; those who watch are told.
    fn set(&self, annotation: Option<&str>) {
        *self.annotation.lock().unwrap() = annotation.map(str::to_owned);
        let pod = self.pod();
        for watcher in self.watchers.lock().unwrap().iter() {
            // A watcher that has gone is not told.
            let _ = watcher.send(event("MODIFIED", &pod));
        }
    }

    fn pod(&self) -> Value {
        let mut pod = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1",
                "resourceVersion": "2", "annotations": {}}});
        if let Some(text) = &*self.annotation.lock().unwrap() {
            pod["metadata"]["annotations"]["isthmus.dev/status"] = json!(text);
        }
        if self.is_going {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        pod
    }

    fn annotation(&self) -> Option<String> {
        self.annotation.lock().unwrap().clone()
    }
}

struct Agent {
    tell: watch::Sender<Option<Arc<Snapshot>>>,
    _task: JoinSet<()>,
}

impl Agent {
    fn start(api: &FakeApi) -> Self {
        let (tell, latest) = watch::channel(None);
        let mut task = JoinSet::new();
        task.spawn(write(api.client(), "n1".into(), latest));
        Self { tell, _task: task }
    }

    /// The pod is enrolled, or not for a reason, or not to be.
    fn says(&self, uid: &str, pod: Option<Option<&str>>) {
        let pod = pod.map(|reason| PodStatus {
            namespace: "shop".into(),
            name: "web".into(),
            uid: uid.into(),
            not_enrolled: reason.map(str::to_owned),
            warning: None,
        });
        self.publish(pod);
    }

    /// The pod is enrolled, and this is wrong with it.
    fn publish_warning(&self, warning: &str) {
        self.publish(Some(PodStatus {
            namespace: "shop".into(),
            name: "web".into(),
            uid: "u1".into(),
            not_enrolled: None,
            warning: Some(warning.to_owned()),
        }));
    }

    fn publish(&self, pod: Option<PodStatus>) {
        self.tell.send_replace(Some(Arc::new(Snapshot {
            policies: Vec::new(),
            pods: pod.into_iter().collect(),
        })));
    }
}

#[tokio::test(start_paused = true)]
async fn why_a_pod_is_not_enrolled_is_there_for_as_long_as_it_is_true() {
    let node = Node::new(None);
    let api = node.api();
    let agent = Agent::start(&api);
    agent.says("u1", Some(Some("its namespace is gone")));
    let event = api.wait(&Method::POST, EVENTS, 1).await.remove(0).body;
    assert_eq!(
        node.annotation().unwrap(),
        "not enrolled: its namespace is gone"
    );
    assert_eq!(
        (&event["type"], &event["reason"]),
        (&json!("Warning"), &json!("NotEnrolled"))
    );
    assert_eq!(event["note"], "its namespace is gone");
    assert_eq!(event["regarding"]["uid"], "u1");
    agent.says("u1", Some(None));
    let event = api.wait(&Method::POST, EVENTS, 2).await.remove(1).body;
    assert_eq!(node.annotation(), None);
    assert_eq!(
        (&event["type"], &event["reason"]),
        (&json!("Normal"), &json!("Enrolled"))
    );
    // And that was that.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(api.asked(&Method::POST, EVENTS).len(), 2);
    assert_eq!(api.asked(&Method::PATCH, STATUS).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn warning_of_an_enrolled_pod_is_annotated_without_an_event() {
    let node = Node::new(None);
    let api = node.api();
    let agent = Agent::start(&api);
    agent.publish_warning("NetworkPolicy shop/only");
    api.wait(&Method::PATCH, STATUS, 1).await;
    assert_eq!(
        node.annotation().unwrap(),
        "enrolled, but: NetworkPolicy shop/only"
    );
    agent.says("u1", Some(None));
    api.wait(&Method::PATCH, STATUS, 2).await;
    assert_eq!(node.annotation(), None);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(api.asked(&Method::POST, EVENTS).is_empty());
    // One that was not enrolled has its event, although the annotation stays.
    agent.says("u1", Some(Some("no certificate")));
    api.wait(&Method::POST, EVENTS, 1).await;
    agent.publish_warning("NetworkPolicy shop/only");
    let event = api.wait(&Method::POST, EVENTS, 2).await.remove(1).body;
    assert_eq!(event["reason"], "Enrolled");
}

#[tokio::test(start_paused = true)]
async fn what_an_agent_left_behind_goes_once_the_next_one_knows_better() {
    let node = Node::new(Some("not enrolled: the old one was dying"));
    let api = node.api();
    let agent = Agent::start(&api);
    // It says nothing yet: nothing is touched.
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(node.annotation().is_some());
    // The pod is not in the mesh at all: no event either.
    agent.says("u1", None);
    api.wait(&Method::PATCH, STATUS, 1).await;
    assert_eq!(node.annotation(), None);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(api.asked(&Method::POST, EVENTS).is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_a_person_writes_there_is_corrected() {
    let node = Node::new(None);
    let api = node.api();
    let agent = Agent::start(&api);
    agent.says("u1", Some(Some("no certificate")));
    api.wait(&Method::PATCH, STATUS, 1).await;
    node.set(Some("all is well"));
    api.wait(&Method::PATCH, STATUS, 2).await;
    assert_eq!(node.annotation().unwrap(), "not enrolled: no certificate");
    agent.says("u1", Some(None));
    api.wait(&Method::PATCH, STATUS, 3).await;
    assert_eq!(node.annotation(), None);
}

#[tokio::test(start_paused = true)]
async fn of_a_pod_that_is_being_deleted_nothing_new_is_said() {
    let node = Arc::new(Node {
        is_going: true,
        ..Node::default()
    });
    let api = node.api();
    let agent = Agent::start(&api);
    agent.says("u1", Some(Some("its namespace is gone")));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(api.asked(&Method::POST, EVENTS).is_empty());
    assert_eq!(node.annotation(), None);
    // But what was said before does not stay when it is not true any more.
    node.set(Some("not enrolled: no certificate"));
    agent.says("u1", Some(None));
    api.wait(&Method::PATCH, STATUS, 1).await;
    assert_eq!(node.annotation(), None);
}

#[tokio::test(start_paused = true)]
async fn another_pod_of_the_same_name_is_not_meant() {
    let node = Node::new(None);
    let api = node.api();
    let agent = Agent::start(&api);
    agent.says("u0", Some(Some("no certificate")));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(api.asked(&Method::PATCH, STATUS).is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_same_event_counts_on_also_for_the_next_agent() {
    let node = Node::new(None);
    let api = node.api();
    let first = Agent::start(&api);
    first.says("u1", Some(Some("no certificate")));
    api.wait(&Method::POST, EVENTS, 1).await;
    drop(first);
    let second = Agent::start(&api);
    second.says("u1", Some(Some("no certificate")));
    let name = node.events.lock().unwrap()[0].clone();
    let path = format!("{EVENTS}/{name}");
    let series = api.wait(&Method::PATCH, &path, 1).await.remove(0).body;
    assert_eq!(series["series"]["count"], 2);
    // Before the API server forgets it.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let reminders = api.asked(&Method::PATCH, &path).len();
    assert!((2..=3).contains(&reminders), "{reminders}");
    // Another reason is another event, though not at any rate.
    for second_of_minute in 0..60 {
        second.says("u1", Some(Some(&format!("reason {second_of_minute}"))));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let events = node.events.lock().unwrap().len();
    assert!((2..=10 + reminders).contains(&events), "{events}");
}

#[tokio::test(start_paused = true)]
async fn errors_are_tried_again_ever_more_slowly() {
    let node = Node::new(None);
    *node.fails.lock().unwrap() = Some(500);
    let api = node.api();
    let agent = Agent::start(&api);
    agent.says("u1", Some(Some("no certificate")));
    tokio::time::sleep(Duration::from_secs(600)).await;
    let tries = api.asked(&Method::PATCH, STATUS).len();
    assert!((2..=30).contains(&tries), "{tries} tries in ten minutes");
    *node.fails.lock().unwrap() = None;
    api.wait(&Method::POST, EVENTS, 1).await;
    assert!(node.annotation().is_some());
}

/// Events cannot be made in a namespace that is being deleted. That is no reason to say nothing
/// of the pods of others.
#[tokio::test(start_paused = true)]
async fn a_pod_about_which_nothing_is_taken_keeps_no_other_waiting() {
    let pod = |namespace: &str, i: u32| {
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": {"name": format!("web{i}"), "namespace": namespace,
                "uid": format!("u{i}"), "resourceVersion": "2"}})
    };
    // Many, since the order in which pods are gone through is none.
    let refused = 1..20;
    let mut pods: Vec<Value> = refused.clone().map(|i| pod("going", i)).collect();
    pods.push(pod("shop", 0));
    let open = Mutex::new(Vec::new());
    let api = FakeApi::new(move |asked| match asked.path.as_str() {
        path if path.ends_with("/pods") && is_watch(asked) => {
            let (tell, told) = mpsc::unbounded_channel();
            open.lock().unwrap().push(tell);
            Reply::Watch(told)
        }
        path if path.ends_with("/pods") => Reply::Json(list("PartialObjectMetadata", &pods)),
        path if path.contains("/namespaces/going/") => Reply::Fail(403, "Forbidden"),
        path if path.contains("/events") => Reply::Json(json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {}, "eventTime": null})),
        _ => Reply::Json(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}})),
    });
    let agent = Agent::start(&api);
    let status = |namespace: &str, i: u32| PodStatus {
        namespace: namespace.into(),
        name: format!("web{i}"),
        uid: format!("u{i}"),
        not_enrolled: Some("no certificate".into()),
        warning: None,
    };
    let statuses = refused
        .map(|i| status("going", i))
        .chain([status("shop", 0)]);
    agent.tell.send_replace(Some(Arc::new(Snapshot {
        policies: Vec::new(),
        pods: statuses.collect(),
    })));
    let said = api.wait(&Method::POST, EVENTS, 1);
    let said = tokio::time::timeout(Duration::from_secs(5), said).await;
    assert_eq!(said.map(|it| it.len()), Ok(1));
    // And those are tried again, now and then.
    tokio::time::sleep(Duration::from_secs(600)).await;
    let tries = api.asked(&Method::PATCH, "/web1/status").len();
    assert!((2..=30).contains(&tries), "{tries} tries in ten minutes");
}
