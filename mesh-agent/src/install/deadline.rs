//! Waiting for an object of the API to become so, with an end.

use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::error::InstallError;

/// The moment at which waiting ends, for all steps together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    at: Instant,
    length: Duration,
}

impl Deadline {
    pub(super) fn after(length: Duration) -> Self {
        Self {
            at: Instant::now() + length,
            length,
        }
    }

    /// Watches the object until `judge` has a value for it (`None`: it is not there). An
    /// error of the watch is tried again, with backoff.
    pub(super) async fn wait<K, T>(
        self,
        api: Api<K>,
        name: &str,
        waited_for: &str,
        mut judge: impl FnMut(Option<&K>) -> Verdict<T>,
    ) -> Result<T, InstallError>
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let mut found = "the API server has not answered".to_owned();
        let watch = async {
            let mut states = pin!(watcher::watch_object(api, name).default_backoff());
            loop {
                match states.next().await {
                    Some(Ok(state)) => match judge(state.as_ref()) {
                        Verdict::So(value) => break value,
                        Verdict::NotYet(how) => found = how,
                    },
                    Some(Err(error)) => found = format!("it cannot be watched: {error}"),
                    None => std::future::pending().await,
                }
            }
        };
        let ended = tokio::time::timeout_at(self.at, watch).await;
        ended.map_err(|_| InstallError::Timeout {
            waited_for: waited_for.to_owned(),
            seconds: self.length.as_secs(),
            found,
        })
    }
}

/// How an object stands.
pub(super) enum Verdict<T> {
    /// As it was waited for.
    So(T),
    /// Not yet: in words.
    NotYet(String),
}
