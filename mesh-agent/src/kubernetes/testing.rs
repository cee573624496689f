//! An API server for tests: answers what the test says, and remembers what it was asked.
//! It sits behind a real client, in place of the connection.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tower_service::Service;

use crate::identity::BoxFuture;

/// One request, as it came.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) path: String,
    /// Decoded as far as tests need it.
    pub(crate) query: String,
    /// Null where there is none.
    pub(crate) body: Value,
}

/// What is answered.
pub(crate) enum Reply {
    /// An object.
    Json(Value),
    /// A failure, as the API server words it.
    Fail(u16, &'static str),
    /// A watch: lines come for as long as the sender lives.
    Watch(mpsc::UnboundedReceiver<Value>),
    /// Nothing, for ever.
    Never,
}

type Script = dyn Fn(&Asked) -> Reply + Send + Sync;

/// The server. Clones share it.
#[derive(Clone)]
pub(crate) struct FakeApi {
    script: Arc<Script>,
    asked: Arc<Mutex<Vec<Asked>>>,
    came: Arc<Notify>,
}

impl FakeApi {
    pub(crate) fn new(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self {
            script: Arc::new(script),
            asked: Arc::default(),
            came: Arc::default(),
        }
    }

    /// A client in the namespace `isthmus-system`.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.clone(), "isthmus-system")
    }

    /// The requests so far that were of `method` and whose path ends so.
    pub(crate) fn asked(&self, method: &Method, path: &str) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |asked: &&Asked| asked.method == *method && asked.path.ends_with(path);
        asked.iter().filter(fits).cloned().collect()
    }

    /// Waits for `count` such requests.
    pub(crate) async fn wait(&self, method: &Method, path: &str, count: usize) -> Vec<Asked> {
        loop {
            let came = self.came.notified();
            let asked = self.asked(method, path);
            if asked.len() >= count {
                return asked;
            }
            came.await;
        }
    }
}

impl Service<Request<Body>> for FakeApi {
    type Response = Response<BoxBody<Bytes, Infallible>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let api = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            let query = head.uri.query().unwrap_or_default();
            let asked = Asked {
                method: head.method,
                path: head.uri.path().to_owned(),
                query: query
                    .replace("%3D", "=")
                    .replace("%2C", ",")
                    .replace("%21", "!"),
                body: serde_json::from_slice(&body).unwrap_or_default(),
            };
            let reply = (api.script)(&asked);
            api.asked
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(asked);
            api.came.notify_waiters();
            let (code, body) = match reply {
                Reply::Json(value) => (200, whole(&value)),
                Reply::Fail(code, reason) => (code, whole(&failure(code, reason))),
                Reply::Watch(lines) => (200, stream(lines)),
                Reply::Never => std::future::pending().await,
            };
            let mut response = Response::new(body);
            *response.status_mut() = code.try_into().unwrap();
            Ok(response)
        })
    }
}

fn whole(value: &Value) -> BoxBody<Bytes, Infallible> {
    Full::new(Bytes::from(value.to_string())).boxed()
}

fn stream(lines: mpsc::UnboundedReceiver<Value>) -> BoxBody<Bytes, Infallible> {
    let frames = UnboundedReceiverStream::new(lines)
        .map(|line| Ok(Frame::data(Bytes::from(format!("{line}\n")))));
    BodyExt::boxed(StreamBody::new(frames))
}

fn failure(code: u16, reason: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure",
        "message": format!("the script says {reason}"), "reason": reason, "code": code})
}

/// A list of objects, as of version 1.
pub(crate) fn list(kind: &str, items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": format!("{kind}List"),
        "metadata": {"resourceVersion": "1"}, "items": items})
}

/// A line of a watch.
pub(crate) fn event(kind: &str, object: &Value) -> Value {
    json!({"type": kind, "object": object})
}

/// Whether a request is a watch, and not a list.
pub(crate) fn is_watch(asked: &Asked) -> bool {
    asked.query.contains("watch=")
}
