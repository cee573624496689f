//! The gate's answers.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::config::read_objects;
use crate::model::build;

/// The kubelet's UID of a pod of its own files, as the mirror's annotation has it.
const HASH: &str = "0123456789abcdef0123456789abcdef";

fn world(uid: &str) -> World {
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: shop{uid}}}\n\
         spec: {{nodeName: here}}\nstatus: {{podIP: 10.0.0.1}}\n"
    );
    let objects = read_objects(Path::new("world.yaml"), &text).unwrap();
    build([&objects], "here", None).world
}

/// Whether the pod is found, or refused as another.
fn found(world: &World, name: &str, uid: &str) -> Result<bool, String> {
    let pod = PodSandbox {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        container_id: String::new(),
        netns: None,
        addresses: Vec::new(),
    };
    find(world, &pod).map(|found| found.is_some())
}

#[test]
fn a_pod_is_known_by_the_uid_of_the_nodes_kubelet() {
    let mirror = world(&format!(", uid: {HASH}"));
    assert_eq!(found(&mirror, "web", HASH), Ok(true));
    assert_eq!(
        found(&mirror, "web", ""),
        Ok(true),
        "not every runtime tells"
    );
    assert_eq!(found(&mirror, "other", HASH), Ok(false));
    // An earlier or later pod of the name.
    found(&mirror, "web", "f5c3c1a0-0000-4000-8000-000000000001").unwrap_err();
    // A folder's pod mostly has none.
    assert_eq!(found(&world(""), "web", HASH), Ok(true));
}

/// A wait whose first looks miss what `missing` says, each one in its turn.
async fn waited(missing: Vec<Missing>, health: Option<&KubeHealth>) -> Result<Admitted, Refusal> {
    let (_news, news) = watch::channel(0);
    let (_draining, draining) = watch::channel(false);
    let looks = AtomicUsize::new(0);
    let look = || {
        let missing = missing.get(looks.fetch_add(1, Ordering::Relaxed)).cloned();
        async move { missing.map_or(Ok(Admitted::Enrolled), Err) }
    };
    wait(look, news, health, draining).await
}

/// An API of which pods are heard, and policies are not.
fn heard_in_part() -> KubeHealth {
    let health = KubeHealth::default();
    for kind in ["pods", POLICIES] {
        health.watched(kind, Some("v1"));
        health.heard(kind);
    }
    health.failed(POLICIES, "it is forbidden".to_owned());
    health
}

const POLICIES: &str = "authorizationpolicies.security.istio.io";

#[tokio::test(start_paused = true)]
async fn a_pod_waits_until_the_api_is_heard_as_one() {
    let unheard = || vec![Missing::Unheard("policies not heard".to_owned())];
    let health = heard_in_part();
    // Nothing comes back: refused, with what is missing.
    let refused = waited(unheard(), Some(&health)).await;
    assert_eq!(refused, Err(Refusal("policies not heard".to_owned())));
    // It comes back.
    let waiting = waited(unheard(), Some(&health));
    let back = async {
        tokio::task::yield_now().await;
        health.heard(POLICIES);
    };
    assert_eq!(tokio::join!(waiting, back).0, Ok(Admitted::Enrolled));
    // All of it goes away: what is known counts.
    health.failed(POLICIES, "no route".to_owned());
    let waiting = waited(unheard(), Some(&health));
    let away = async {
        tokio::task::yield_now().await;
        health.failed("pods", "no route".to_owned());
    };
    assert_eq!(tokio::join!(waiting, away).0, Ok(Admitted::Enrolled));
}

#[tokio::test(start_paused = true)]
async fn what_else_is_missing_waits_for_the_fleet_alone() {
    let health = heard_in_part();
    let missing = || vec![Missing::Other("not enrolled".to_owned())];
    let waiting = waited(missing(), Some(&health));
    let back = async {
        tokio::task::yield_now().await;
        health.heard(POLICIES);
    };
    let (refused, ()) = tokio::join!(waiting, back);
    assert_eq!(refused, Err(Refusal("not enrolled".to_owned())));

    let (tell, news) = watch::channel(0);
    let (drain, draining) = watch::channel(false);
    let looks = AtomicUsize::new(0);
    let look = || {
        let first = looks.fetch_add(1, Ordering::Relaxed) == 0;
        tell.send_replace(1);
        async move {
            match first {
                true => Err(Missing::Other("not enrolled".to_owned())),
                false => Ok(Admitted::Enrolled),
            }
        }
    };
    let enrolled = wait(look, news.clone(), None, draining.clone()).await;
    assert_eq!(enrolled, Ok(Admitted::Enrolled));
    drain.send_replace(true);
    let never = || async { Err(Missing::Other("not enrolled".to_owned())) };
    let refused = wait(never, news, None, draining).await.unwrap_err();
    assert_eq!(refused.0, "the agent is shutting down");
}
