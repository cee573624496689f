use std::sync::Mutex;

use http::Method;
use serde_json::Value;
use tokio::sync::mpsc;

use super::*;
use crate::ca::bed::{Bed, bed};
use crate::kubernetes::testing::{Asked, FakeApi, Reply, event, is_watch, list};

/// The one ConfigMap, and who watches it.
#[derive(Default)]
struct Namespace {
    roots: Mutex<Option<String>>,
    watchers: Mutex<Vec<mpsc::UnboundedSender<Value>>>,
}

impl Namespace {
    fn api(self: &Arc<Self>) -> FakeApi {
        let namespace = Arc::clone(self);
        FakeApi::new(move |asked| namespace.answer(asked))
    }

    fn answer(&self, asked: &Asked) -> Reply {
        if asked.method == Method::PATCH {
            assert!(
                asked.query.contains("fieldManager=isthmus-ca"),
                "{}",
                asked.query
            );
            self.set(asked.body["data"][KEY].as_str());
            return Reply::Json(self.object());
        }
        if asked.path.ends_with(NAME) {
            let there = self.roots.lock().unwrap().is_some();
            return match there {
                true => Reply::Json(self.object()),
                false => Reply::Fail(404, "NotFound"),
            };
        }
        assert!(
            asked.query.contains(&format!("metadata.name={NAME}")),
            "{}",
            asked.query
        );
        if is_watch(asked) {
            let (tell, told) = mpsc::unbounded_channel();
            self.watchers.lock().unwrap().push(tell);
            return Reply::Watch(told);
        }
        let there = self.roots.lock().unwrap().is_some();
        let items = if there {
            vec![self.object()]
        } else {
            Vec::new()
        };
        Reply::Json(list("ConfigMap", &items))
    }

    fn set(&self, roots: Option<&str>) {
        let object = self.object();
        *self.roots.lock().unwrap() = roots.map(str::to_owned);
        let line = match roots {
            Some(_) => event("MODIFIED", &self.object()),
            None => event("DELETED", &object),
        };
        for watcher in self.watchers.lock().unwrap().iter() {
            // A watcher that has gone is not told.
            let _ = watcher.send(line.clone());
        }
    }

    fn object(&self) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": "isthmus-system", "resourceVersion": "2"},
            "data": {KEY: *self.roots.lock().unwrap()}})
    }
}

/// For what must happen, so that a test that hangs says where.
async fn patches(api: &FakeApi, count: usize) {
    let written = api.wait(&Method::PATCH, NAME, count);
    let waited = tokio::time::timeout(Duration::from_secs(30), written).await;
    waited.expect("it is not published");
}

#[tokio::test]
async fn the_roots_are_put_back_whoever_changes_them() {
    let Bed { dir, ca, .. } = bed();
    let ca = Arc::new(ca);
    let ours = ca.roots_pem().unwrap();
    let namespace = Arc::new(Namespace::default());
    let api = namespace.api();
    assert!(!any(api.client(), "isthmus-system").await.unwrap());
    let published = Published::new(api.client(), "isthmus-system", Arc::clone(&ca));
    let mut done = published.done();
    assert!(!*done.borrow());
    let keeping = tokio::spawn(published.keep());
    done.wait_for(|done| *done).await.unwrap();
    assert_eq!(namespace.roots.lock().unwrap().as_ref(), Some(&ours));
    assert!(any(api.client(), "isthmus-system").await.unwrap());
    for (count, edit) in [(2, Some("nonsense")), (3, None)] {
        namespace.set(edit);
        patches(&api, count).await;
        assert_eq!(namespace.roots.lock().unwrap().as_ref(), Some(&ours));
    }
    keeping.abort();
    drop(dir);
}

#[tokio::test]
async fn an_empty_config_map_is_nobodys() {
    let namespace = Arc::new(Namespace::default());
    namespace.set(Some(""));
    let api = namespace.api();
    assert!(!any(api.client(), "isthmus-system").await.unwrap());
}
