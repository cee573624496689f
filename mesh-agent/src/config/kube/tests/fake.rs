//! A Kubernetes API in memory: lists, watches, discovery, and every way to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{Full, StreamBody};
use hyper::body::Frame;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tower_service::Service;

use crate::identity::BoxFuture;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

#[derive(Clone, Default)]
pub(super) struct Fake(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    watches: Vec<(String, UnboundedSender<Bytes>)>,
    /// Custom resources that its discovery lists, by name.
    discovered: BTreeSet<&'static str>,
    /// Those that it lists and watches.
    served: BTreeSet<&'static str>,
    /// Those whose definition it has.
    defined: BTreeSet<&'static str>,
    /// Whether it answers 404 to every question for a definition.
    no_definitions: bool,
    version: u64,
    away: bool,
    /// Paths for which it says 403, watches too.
    forbidden: BTreeSet<String>,
    /// Paths for which it says nothing.
    hanging: BTreeSet<String>,
    asked: usize,
    /// Watches that start where the server does not remember.
    forgotten: BTreeSet<String>,
    /// Whether lists may be streamed.
    streams: bool,
    lists: Vec<String>,
}

impl Fake {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// One that streams lists.
    pub(super) fn streaming() -> Self {
        let fake = Self::default();
        fake.lock().streams = true;
        fake
    }

    pub(super) fn client(&self) -> Client {
        Client::new(self.clone(), "default")
    }

    /// Has `plural.group` from now on.
    pub(super) fn serve(&self, resource: &'static str) {
        let mut state = self.lock();
        state.discovered.insert(resource);
        state.served.insert(resource);
        state.defined.insert(resource);
    }

    /// Removes `plural.group` with its definition; its objects come back with it.
    pub(super) fn unserve(&self, resource: &'static str) {
        self.stop_serving(resource);
        self.lock().defined.remove(resource);
    }

    /// Serves no definitions at all, as a server of which that part has not started.
    pub(super) fn serve_no_definitions(&self, none: bool) {
        self.lock().no_definitions = none;
    }

    /// Neither discovers nor serves `plural.group`, as a server that starts; the definition stays.
    pub(super) fn stop_serving(&self, resource: &'static str) {
        let mut state = self.lock();
        state.discovered.remove(resource);
        state.served.remove(resource);
        state
            .watches
            .retain(|(path, _)| serves(path) != Some(resource));
    }

    /// Leaves `plural.group` out of its discovery, and serves it all the same.
    pub(super) fn hide(&self, resource: &'static str) {
        self.lock().discovered.remove(resource);
    }

    pub(super) fn put(&self, path: &str, mut object: Value) {
        let mut state = self.lock();
        state.version += 1;
        if let Some(Value::Object(meta)) = object.get_mut("metadata") {
            meta.insert("resourceVersion".into(), state.version.to_string().into());
        }
        state.tell(path, &event("MODIFIED", &object));
        let of_path = state.objects.entry(path.to_owned()).or_default();
        of_path.insert(key(&object), object);
    }

    pub(super) fn delete(&self, path: &str, object: &Value) {
        let mut state = self.lock();
        let of_path = state.objects.entry(path.to_owned()).or_default();
        let object = of_path.remove(&key(object)).unwrap();
        state.tell(path, &event("DELETED", &object));
    }

    /// Takes an object away, and tells nobody.
    pub(super) fn lose(&self, path: &str, object: &Value) {
        let mut state = self.lock();
        state
            .objects
            .entry(path.to_owned())
            .or_default()
            .remove(&key(object));
    }

    /// Sends `text` to who watches `path`.
    pub(super) fn say(&self, path: &str, text: &str) {
        self.lock().tell(path, text);
    }

    /// Ends the watches of `path`; the next is told that its version is gone.
    pub(super) fn forget(&self, path: &str) {
        let mut state = self.lock();
        state.forgotten.insert(path.to_owned());
        state.watches.retain(|(it, _)| it != path);
    }

    /// Neither connections nor answers, until [`Self::come_back`].
    pub(super) fn go_away(&self) {
        let mut state = self.lock();
        state.away = true;
        state.watches.clear();
    }

    pub(super) fn come_back(&self) {
        self.lock().away = false;
    }

    /// Forbids a path, and ends its watches, until [`Self::allow`].
    pub(super) fn forbid(&self, path: &str) {
        let mut state = self.lock();
        state.forbidden.insert(path.to_owned());
        state.watches.retain(|(it, _)| it != path);
    }

    pub(super) fn allow(&self, path: &str) {
        self.lock().forbidden.remove(path);
    }

    /// Never answers about a path again, and ends its watches.
    pub(super) fn hang(&self, path: &str) {
        let mut state = self.lock();
        state.hanging.insert(path.to_owned());
        state.watches.retain(|(it, _)| it != path);
    }

    /// How many requests there were.
    pub(super) fn asked(&self) -> usize {
        self.lock().asked
    }

    /// The paths that were listed, in order.
    pub(super) fn lists(&self) -> Vec<String> {
        self.lock().lists.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn answer(&self, path: &str, query: &str) -> io::Result<Answer> {
        let mut state = self.lock();
        state.asked += 1;
        if state.away {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        if state.forbidden.contains(path) {
            return Ok(json_answer(403, &status(403, "this is forbidden here")));
        }
        if path == "/apis" {
            return Ok(json_answer(200, &state.discovery()));
        }
        if let Some(name) = path.strip_prefix(DEFINITIONS) {
            if state.no_definitions {
                return Ok(json_answer(404, &status(404, "404 page not found")));
            }
            return Ok(match state.defined.contains(name) {
                true => json_answer(200, &json!({"metadata": {"name": name}})),
                false => json_answer(404, &no_definition(name)),
            });
        }
        let is_served = |it| state.served.contains(it) && path.contains(&in_version(it));
        if serves(path).is_some_and(|it| !is_served(it)) {
            return Ok(json_answer(404, &status(404, "404 page not found")));
        }
        if !query.contains("watch=true") {
            state.lists.push(path.to_owned());
            let items: Vec<&Value> = state
                .objects
                .get(path)
                .into_iter()
                .flat_map(|it| it.values())
                .collect();
            let version = state.version.to_string();
            return Ok(json_answer(
                200,
                &json!({"metadata": {"resourceVersion": version}, "items": items}),
            ));
        }
        let streamed = query.contains("sendInitialEvents=true");
        if streamed && !state.streams {
            return Ok(json_answer(
                422,
                &status(422, "sendInitialEvents is forbidden"),
            ));
        }
        let (tell, told) = mpsc::unbounded_channel();
        if state.forgotten.remove(path) {
            let gone = event("ERROR", &status(410, "too old resource version"));
            tell.send(Bytes::from(gone)).unwrap();
        }
        if streamed {
            for object in state
                .objects
                .get(path)
                .into_iter()
                .flat_map(|it| it.values())
            {
                tell.send(Bytes::from(event("ADDED", object))).unwrap();
            }
            let meta = json!({"resourceVersion": state.version.to_string(),
                "annotations": {"k8s.io/initial-events-end": "true"}});
            let end = json!({"apiVersion": "v1", "kind": "Any", "metadata": meta});
            tell.send(Bytes::from(event("BOOKMARK", &end))).unwrap();
        }
        state.watches.push((path.to_owned(), tell));
        let frames =
            UnboundedReceiverStream::new(told).map(|it| Ok::<_, Infallible>(Frame::data(it)));
        Ok(Response::new(UnsyncBoxBody::new(StreamBody::new(frames))))
    }
}

impl State {
    fn tell(&mut self, path: &str, text: &str) {
        let text = Bytes::from(text.to_owned());
        let watches = self.watches.iter().filter(|(it, _)| it == path);
        // Who has gone hears nothing.
        watches.for_each(|(_, watch)| drop(watch.send(text.clone())));
    }

    fn discovery(&self) -> Value {
        let groups = self.discovered.iter().map(|resource| {
            let (plural, group) = resource.split_once('.').unwrap();
            let (version, kind) = version_and_kind(plural);
            json!({"metadata": {"name": group}, "versions": [{"version": version, "resources": [
                {"resource": plural, "responseKind": {"kind": kind}, "verbs": ["list", "watch"]}]}]})
        });
        json!({"items": groups.collect::<Vec<_>>()})
    }
}

impl Service<Request<Body>> for Fake {
    type Response = Answer;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Answer>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (fake, uri) = (self.clone(), request.uri().clone());
        Box::pin(async move {
            if fake.lock().hanging.contains(uri.path()) {
                std::future::pending::<()>().await;
            }
            fake.answer(uri.path(), uri.query().unwrap_or_default())
        })
    }
}

/// Where definitions are.
pub(super) const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/";

/// The custom resource that a path is about.
fn serves(path: &str) -> Option<&'static str> {
    let [group, _, plural] = path.strip_prefix("/apis/")?.split('/').collect::<Vec<_>>()[..] else {
        return None;
    };
    let of_path = |it: &&&str| it.split_once('.') == Some((plural, group));
    RESOURCES.iter().find(of_path).copied()
}

/// The one version in which it serves a resource, and its kind.
fn version_and_kind(plural: &str) -> (&'static str, &'static str) {
    match plural {
        "meshconfigs" => ("v1alpha1", "MeshConfig"),
        "authorizationpolicies" => ("v1", "AuthorizationPolicy"),
        "peerauthentications" => ("v1beta1", "PeerAuthentication"),
        "servicecidrs" => ("v1", "ServiceCIDR"),
        "networkpolicies" => ("v1", "NetworkPolicy"),
        _ => ("v1", "VirtualService"),
    }
}

/// The part of a path that names that version.
fn in_version(resource: &str) -> String {
    let (plural, _) = resource.split_once('.').unwrap();
    format!("/{}/", version_and_kind(plural).0)
}

/// Those that tests serve.
const RESOURCES: [&str; 6] = [
    "authorizationpolicies.security.istio.io",
    "peerauthentications.security.istio.io",
    "meshconfigs.isthmus.dev",
    "virtualservices.networking.istio.io",
    "servicecidrs.networking.k8s.io",
    "networkpolicies.networking.k8s.io",
];

fn no_definition(name: &str) -> Value {
    let mut status = status(404, "not found");
    status["details"] = json!({"name": name, "group": "apiextensions.k8s.io",
        "kind": "customresourcedefinitions"});
    status
}

fn key(object: &Value) -> String {
    let meta = &object["metadata"];
    format!("{}/{}", meta["namespace"], meta["name"])
}

fn event(kind: &str, object: &Value) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

fn status(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": "Fake", "code": code})
}

fn json_answer(code: u16, value: &Value) -> Answer {
    let body = UnsyncBoxBody::new(Full::from(value.to_string()));
    Response::builder().status(code).body(body).unwrap()
}
