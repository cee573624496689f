//! Writes the condition of every policy, while this agent holds the lease. Started by
//! [`super::Writer`].
//!
//! The policies are listed and compared, and what differs is written: after a change, and
//! from time to time in case somebody else wrote. One agent of a cluster does this.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Client, Error};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::lease::Lease;
use super::{FIELD_MANAGER, Latest, PolicyKind, PolicyStatus, Snapshot, condition};

/// How long changes are gathered.
const GATHER: Duration = Duration::from_secs(1);

/// How often the policies are compared without a change.
const COMPARE: Duration = Duration::from_secs(60);

/// The first and the longest wait after an error; it doubles in between.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Policies in one answer of the API server.
const PAGE: u32 = 500;

const GROUP: &str = "security.istio.io";

/// The versions under which the kinds are served, the preferred one first.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// Runs until nobody tells news any more, and gives the lease up then.
pub(super) async fn write(client: Client, mut lease: Lease, latest: Latest) {
    let mut told = latest.clone();
    let ended = async { while told.changed().await.is_ok() {} };
    tokio::select! {
        // What is being asked or written then is left, whatever comes of it: each write is
        // refused if it is not the next.
        () = ended => {}
        () = keep(&client, &mut lease, latest) => {}
    }
    if let Err(error) = lease.release().await {
        tracing::warn!(%error,
            "the lease of the policies' statuses cannot be given up: they wait until it runs out");
    }
}

async fn keep(client: &Client, lease: &mut Lease, mut latest: Latest) {
    if latest.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let mut told = Vec::new();
    let mut look_at_lease = Instant::now();
    let mut compare = Instant::now();
    let mut backoff = BACKOFF.0;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(look_at_lease) => {
                let was_held = lease.is_held();
                let looked = lease.attempt().await;
                look_at_lease = Instant::now() + wait(looked.as_ref(), lease.next(), &mut backoff);
                if let Err(error) = looked {
                    tracing::warn!(%error, "the lease of the policies' statuses cannot be read or written");
                } else if lease.is_held() && !was_held {
                    tracing::info!("this agent writes the policies' statuses now");
                    compare = Instant::now();
                }
            }
            () = tokio::time::sleep_until(compare), if lease.is_held() => {
                let Some(snapshot) = latest.borrow().clone() else { continue };
                let done = pass(client, lease, &snapshot).await;
                let next = match done {
                    Ok(Done::All) => COMPARE,
                    Ok(Done::Again) => GATHER,
                    Err(_) => COMPARE,
                };
                compare = Instant::now() + wait(done.as_ref(), next, &mut backoff);
                if let Err(error) = done {
                    tracing::warn!(%error, "the policies' statuses cannot be written");
                }
            }
            changed = latest.changed() => {
                if changed.is_err() {
                    return;
                }
                let snapshot = latest.borrow_and_update().clone().unwrap_or_default();
                // Pods come and go all the time; after an error its wait is kept.
                if snapshot.policies != told {
                    told.clone_from(&snapshot.policies);
                    if backoff == BACKOFF.0 {
                        compare = compare.min(Instant::now() + GATHER);
                    }
                }
            }
        }
    }
}

/// How long until the next try.
fn wait<T>(tried: Result<T, &Error>, next: Duration, backoff: &mut Duration) -> Duration {
    match tried {
        Ok(_) => {
            *backoff = BACKOFF.0;
            next
        }
        Err(_) => std::mem::replace(backoff, (*backoff * 2).min(BACKOFF.1)),
    }
}

/// How a pass ended.
enum Done {
    /// Everything is written that can be.
    All,
    /// An object changed meanwhile, or the lease went away.
    Again,
}

/// Compares all policies with the snapshot, and writes what differs.
async fn pass(client: &Client, lease: &mut Lease, snapshot: &Snapshot) -> Result<Done, Error> {
    let mut done = Done::All;
    for kind in [
        PolicyKind::PeerAuthentication,
        PolicyKind::AuthorizationPolicy,
    ] {
        let known: HashMap<_, _> = snapshot
            .policies
            .iter()
            .filter(|policy| policy.kind == kind)
            .map(|policy| ((policy.namespace.as_str(), policy.name.as_str()), policy))
            .collect();
        if known.is_empty() {
            continue;
        }
        let Some((resource, objects)) = list(client, kind).await? else {
            continue;
        };
        for object in &objects {
            let (Some(namespace), Some(name)) = (&object.metadata.namespace, &object.metadata.name)
            else {
                continue;
            };
            let Some(policy) = known.get(&(namespace.as_str(), name.as_str())) else {
                continue;
            };
            let Some(patch) = patch(object, policy) else {
                continue;
            };
            if !lease.keep().await? {
                return Ok(Done::Again);
            }
            let api: Api<DynamicObject> =
                Api::namespaced_with(client.clone(), namespace, &resource);
            let params = PatchParams {
                field_manager: Some(FIELD_MANAGER.into()),
                ..PatchParams::default()
            };
            match api.patch_status(name, &params, &Patch::Merge(&patch)).await {
                Ok(_) => tracing::debug!(kind = kind.name(), namespace, name, "status written"),
                Err(Error::Api(status)) if status.code == 409 => done = Done::Again,
                // It is gone, or its CRD has no status: nothing to write to.
                Err(Error::Api(status)) if status.code == 404 => {}
                // One object's fault must not keep the others from being written.
                Err(Error::Api(status)) if status.code == 422 => {
                    tracing::warn!(kind = kind.name(), namespace, name, %status, "the API server refuses the status");
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(done)
}

/// What is to be written to `object`, if anything.
fn patch(object: &DynamicObject, policy: &PolicyStatus) -> Option<Value> {
    if object.metadata.generation != Some(policy.generation) {
        return None;
    }
    let none = Vec::new();
    let there = object.data["status"]["conditions"].as_array();
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let conditions = condition::merged(there.unwrap_or(&none), policy, &now)?;
    Some(json!({
        // The list is replaced as a whole, since its schema may not say how it is merged:
        // refused when another controller wrote to it meanwhile.
        "metadata": {"resourceVersion": object.metadata.resource_version},
        "status": {"conditions": conditions},
    }))
}

/// All objects of a kind and where they were found, or `None` where no CRD has it.
async fn list(
    client: &Client,
    kind: PolicyKind,
) -> Result<Option<(ApiResource, Vec<DynamicObject>)>, Error> {
    for version in VERSIONS {
        let resource = kind.resource(version);
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let mut params = ListParams::default().limit(PAGE);
        let mut objects = Vec::new();
        loop {
            let page = match api.list(&params).await {
                Err(Error::Api(status)) if status.code == 404 => break,
                page => page?,
            };
            objects.extend(page.items);
            match page.metadata.continue_ {
                Some(token) if !token.is_empty() => params = params.continue_token(&token),
                _ => return Ok(Some((resource, objects))),
            }
        }
    }
    Ok(None)
}

impl PolicyKind {
    fn name(self) -> &'static str {
        match self {
            Self::PeerAuthentication => "PeerAuthentication",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
        }
    }

    fn resource(self, version: &str) -> ApiResource {
        let plural = match self {
            Self::PeerAuthentication => "peerauthentications",
            Self::AuthorizationPolicy => "authorizationpolicies",
        };
        ApiResource {
            group: GROUP.into(),
            version: version.into(),
            api_version: format!("{GROUP}/{version}"),
            kind: self.name().into(),
            plural: plural.into(),
        }
    }
}

#[cfg(test)]
mod tests;
