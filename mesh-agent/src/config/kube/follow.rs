//! Follows one kind: lists it, watches it, lists it again where the server has forgotten,
//! for ever. Tells the store through the queue; says how it goes to the health.

use std::iter;
use std::pin::pin;
use std::sync::Arc;

use futures_util::StreamExt;
use kube::runtime::watcher::{self, Config, Error, Event};
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::mpsc;

use super::backoff::Backoff;
use super::health::KubeHealth;
use super::heard::noting;
use super::intern::Interner;
use super::kinds::Kind;
use super::pod::PodBody;
use super::read::{Change, Readable, Update, key};
use super::received::Received;
use crate::cause::with_causes;

/// Never ends, unless the store does.
pub(super) async fn follow(
    client: Client,
    kind: Kind,
    tell: mpsc::Sender<Update>,
    health: KubeHealth,
) {
    if kind.group.is_empty() && kind.kind == "Pod" {
        follow_as::<PodBody>(client, kind, tell, health).await;
    } else {
        follow_as::<Value>(client, kind, tell, health).await;
    }
}

async fn follow_as<B: Readable>(
    client: Client,
    kind: Kind,
    tell: mpsc::Sender<Update>,
    health: KubeHealth,
) {
    let name: Arc<str> = kind.name().into();
    health.watched(&name, Some(&kind.version));
    let client = noting(client, &name, &health);
    let api: Api<Received<B>> = Api::all_with(client, &kind.resource());
    let mut follower = Follower::<B> {
        interner: Interner::default(),
        listing: Vec::new(),
        kind,
        name,
    };
    let mut backoff = Backoff::new(&health);
    // A list that is streamed costs the server and us no copy of the whole.
    let mut streamed = true;
    'watch: loop {
        let config = match streamed {
            true => Config::default().streaming_lists(),
            false => Config::default(),
        };
        let mut events = pin!(watcher::watcher(api.clone(), config));
        while let Some(event) = events.next().await {
            let error = match event {
                Ok(event) => {
                    if matches!(event, Event::Init) {
                        health.lists(&follower.name);
                    } else {
                        backoff.reset();
                        health.heard(&follower.name);
                    }
                    let listed = matches!(event, Event::InitDone);
                    if let Some(change) = follower.take(event) {
                        let update = B::update(&follower.name, change);
                        if tell.send(update).await.is_err() {
                            return;
                        }
                    }
                    if listed {
                        health.listed(&follower.name);
                    }
                    continue;
                }
                Err(error) => error,
            };
            if streamed && refuses_streams(&error) {
                tracing::debug!(kind = %follower.name, %error, "lists are not streamed here");
                streamed = false;
                continue 'watch;
            }
            if !is_gone(&error) && health.failed(&follower.name, describe(&error)) {
                backoff.lost();
            }
            backoff.wait().await;
        }
    }
}

/// Servers before 1.32 and some after it do not know `sendInitialEvents`.
fn refuses_streams(error: &Error) -> bool {
    let Error::WatchStartFailed(kube::Error::Api(status)) = error else {
        return false;
    };
    matches!(status.code, 400 | 422)
}

/// The server does not remember that far back. It is heard, and the list follows.
fn is_gone(error: &Error) -> bool {
    match error {
        Error::WatchError(status) => status.code == 410,
        Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 410,
        _ => false,
    }
}

/// With its causes: the first layer of an error seldom says what happened. Of what the server
/// refuses, its own words: the whole of its answer is a page of fields.
pub(super) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let chain = iter::successors(Some(error), |error| error.source());
    for error in chain {
        if let Some(kube::Error::Api(status)) = error.downcast_ref()
            && !status.message.is_empty()
        {
            return format!("{} ({})", status.message, status.code);
        }
    }
    with_causes(error.to_string(), error.source())
}

struct Follower<B: Readable> {
    kind: Kind,
    name: Arc<str>,
    interner: Interner,
    /// The list that is under way.
    listing: Vec<(super::read::Key, B::Read)>,
}

impl<B: Readable> Follower<B> {
    fn take(&mut self, event: Event<Received<B>>) -> Option<Change<B::Read>> {
        match event {
            Event::Init => {
                self.listing = Vec::new();
                None
            }
            Event::InitApply(object) => {
                let read = self.read(object);
                self.listing.push(read);
                None
            }
            Event::InitDone => Some(Change::Listed(std::mem::take(&mut self.listing))),
            Event::Apply(object) => {
                let (key, read) = self.read(object);
                Some(Change::Applied(key, read))
            }
            Event::Delete(object) => Some(Change::Deleted(key(&object, &mut self.interner))),
        }
    }

    fn read(&mut self, object: Received<B>) -> (super::read::Key, B::Read) {
        let key = key(&object, &mut self.interner);
        (key, B::read(object, &self.kind, &mut self.interner))
    }
}
