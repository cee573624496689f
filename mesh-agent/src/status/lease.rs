//! Which one of all agents writes what is the same for all: the holder of a
//! `coordination.k8s.io` lease. Called by [`super::policies`].
//!
//! A lease is taken from its holder when nobody wrote it for as long as it lasts, by this
//! process's own monotonic clock: the clocks of two nodes are never compared.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease as Object, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use tokio::time::Instant;

/// The object's name.
pub(super) const NAME: &str = "isthmus-status";

/// How long a holder that does not renew stays the holder. Statuses may wait for it.
pub(super) const DURATION: Duration = Duration::from_secs(30);

/// How often the holder renews.
pub(super) const RENEW: Duration = Duration::from_secs(10);

/// How often the others look, each: a thousand agents ask the API server 50 times a second.
pub(super) const LOOK: Duration = Duration::from_secs(20);

/// The holder stops this long before others may think that it is gone, which is time for a
/// write that is under way.
const MARGIN: Duration = Duration::from_secs(10);

/// One agent's hand on the lease.
pub(super) struct Lease {
    api: Api<Object>,
    me: String,
    /// The version that was seen last, and when it was first seen.
    seen: Option<(String, Instant)>,
    /// When this agent stops being the holder, and when it renewed.
    held: Option<Instant>,
}

impl Lease {
    /// The lease in `namespace`, for an agent on `node`. Two agents on one node, as while
    /// one replaces the other, are two.
    pub(super) fn new(client: Client, namespace: &str, node: &str) -> Self {
        let started = Timestamp::now().as_nanosecond();
        Self {
            api: Api::namespaced(client, namespace),
            me: format!("{node}/{}-{started:x}", std::process::id()),
            seen: None,
            held: None,
        }
    }

    /// Whether this agent may write now.
    pub(super) fn is_held(&self) -> bool {
        self.held
            .is_some_and(|renewed| renewed.elapsed() < DURATION - MARGIN)
    }

    /// When to [`Self::attempt`] again after one that succeeded.
    pub(super) fn next(&self) -> Duration {
        if self.is_held() { RENEW } else { LOOK }
    }

    /// Renews the lease or takes it, and tells whether it is held.
    pub(super) async fn attempt(&mut self) -> Result<bool, Error> {
        let began = Instant::now();
        let written = match self.api.get_opt(NAME).await? {
            None => {
                let new = self.object(None);
                self.api.create(&PostParams::default(), &new).await
            }
            Some(found) => {
                if !self.may_take(&found, began) {
                    self.held = None;
                    return Ok(false);
                }
                let new = self.object(Some(found));
                self.api.replace(NAME, &PostParams::default(), &new).await
            }
        };
        match written {
            Ok(_) => self.held = Some(began),
            // Another agent wrote first; the version in our object is not the latest.
            Err(Error::Api(status)) if status.code == 409 => self.held = None,
            Err(error) => return Err(error),
        }
        Ok(self.is_held())
    }

    /// Renews the lease in the course of long work if it is time, and tells whether it is
    /// held.
    pub(super) async fn keep(&mut self) -> Result<bool, Error> {
        match self.held {
            Some(renewed) if renewed.elapsed() < RENEW => Ok(true),
            _ => self.attempt().await,
        }
    }

    /// Gives the lease up if it is held, so that nobody waits until it runs out. Where another
    /// wrote meanwhile, it is left as that one wrote it.
    pub(super) async fn release(&mut self) -> Result<(), Error> {
        if !self.is_held() {
            return Ok(());
        }
        self.held = None;
        let found = self.api.get_opt(NAME).await?;
        let Some(mut object) = found.filter(|it| holder(it) == Some(&self.me)) else {
            return Ok(());
        };
        if let Some(spec) = &mut object.spec {
            spec.holder_identity = None;
        }
        // The version that was read goes with it.
        match self
            .api
            .replace(NAME, &PostParams::default(), &object)
            .await
        {
            Err(Error::Api(status)) if status.code == 409 => Ok(()),
            written => written.map(drop),
        }
    }

    fn may_take(&mut self, found: &Object, now: Instant) -> bool {
        let holder = holder(found);
        if holder.is_none_or(|holder| holder.is_empty() || *holder == self.me) {
            return true;
        }
        let version = found.metadata.resource_version.clone().unwrap_or_default();
        match &self.seen {
            Some((seen, since)) if *seen == version => now.duration_since(*since) >= DURATION,
            _ => {
                self.seen = Some((version, now));
                false
            }
        }
    }

    fn object(&self, found: Option<Object>) -> Object {
        let now = MicroTime(Timestamp::now());
        let (metadata, was) = match found {
            Some(found) => (found.metadata, found.spec.unwrap_or_default()),
            None => (
                ObjectMeta {
                    name: Some(NAME.into()),
                    ..ObjectMeta::default()
                },
                LeaseSpec::default(),
            ),
        };
        let mine = was.holder_identity.as_ref() == Some(&self.me);
        let acquired = was.acquire_time.filter(|_| mine);
        let changes = was.lease_transitions.unwrap_or(0);
        Object {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(self.me.clone()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                acquire_time: acquired.or_else(|| Some(now.clone())),
                renew_time: Some(now),
                lease_transitions: Some(changes.saturating_add(i32::from(!mine))),
                ..LeaseSpec::default()
            }),
        }
    }
}

fn holder(lease: &Object) -> Option<&String> {
    lease.spec.as_ref()?.holder_identity.as_ref()
}

#[cfg(test)]
mod tests;
