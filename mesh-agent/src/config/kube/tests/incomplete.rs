//! A server whose discovery lacks groups that it has: one that starts gives such answers. Nothing
//! that is known is dropped, and nothing is assumed at the start.

use super::super::discovery::DISCOVER_EVERY;
use super::super::presence::DEFINITIONS;
use super::fake;
use super::*;
use crate::config::KubeHealth;
use crate::model::MtlsMode;

const AUTHORIZATION: &str = "authorizationpolicies.security.istio.io";
const PEERS: &str = "peerauthentications.security.istio.io";
const CONFIG: &str = "meshconfigs.isthmus.dev";

const PEERS_PATH: &str = "/apis/security.istio.io/v1beta1/peerauthentications";

/// A server with one object of each kind: STRICT, a policy that allows nothing, a trust domain.
fn with_policies() -> Fake {
    let fake = Fake::new();
    fake.put(NAMESPACES, namespace("shop", json!({})));
    fake.put(PODS, pod("web", "10.0.0.1"));
    for kind in [AUTHORIZATION, PEERS, CONFIG] {
        fake.serve(kind);
    }
    fake.put(POLICIES, policy("none", json!({})));
    fake.put(
        PEERS_PATH,
        json!({"metadata": {"name": "strict", "namespace": "istio-system"},
            "spec": {"mtls": {"mode": "STRICT"}}}),
    );
    fake.put(
        MESH_CONFIGS,
        json!({"metadata": {"name": "mesh", "namespace": "isthmus-system"},
            "spec": {"trustDomain": "prod.example"}}),
    );
    fake
}

fn is_whole(loaded: &Loaded) -> bool {
    let mesh = loaded.world.mesh();
    mesh.inbound_mode == MtlsMode::Strict
        && mesh.trust_domain.as_str() == "prod.example"
        && loaded
            .world
            .policies()
            .known
            .authorization
            .contains_key("shop/none")
}

/// No world comes within `time`.
async fn quiet(source: &mut KubeSource, time: Duration) {
    let world = tokio::time::timeout(time, source.changed()).await;
    assert!(world.is_err(), "{:?}", world.map(|it| it.problems));
}

/// Why a kind is disconnected.
fn error(health: &KubeHealth, kind: &str) -> Option<String> {
    let kinds = health.kinds();
    kinds.into_iter().find(|it| it.kind == kind)?.error
}

#[tokio::test(start_paused = true)]
async fn discovery_without_the_groups_drops_no_object_and_ends_no_watch() {
    let fake = with_policies();
    let mut source = open(&fake).await;
    assert!(is_whole(&source.changed().await));
    for kind in [AUTHORIZATION, PEERS, CONFIG] {
        fake.hide(kind);
    }
    quiet(&mut source, DISCOVER_EVERY * 4).await;
    assert_eq!(source.health().away(), None);
    fake.put(POLICIES, policy("more", json!({})));
    until(&mut source, |it| {
        let known = &it.world.policies().known;
        is_whole(it) && known.authorization.contains_key("shop/more")
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn discovery_without_the_groups_at_the_start_does_not_hide_the_objects() {
    let fake = with_policies();
    for kind in [AUTHORIZATION, PEERS, CONFIG] {
        fake.hide(kind);
    }
    let mut source = open(&fake).await;
    assert!(is_whole(&source.changed().await));
}

#[tokio::test(start_paused = true)]
async fn source_waits_for_a_kind_that_is_defined_and_not_served_yet() {
    let fake = with_policies();
    for kind in [AUTHORIZATION, PEERS, CONFIG] {
        fake.stop_serving(kind);
    }
    let mut source = open(&fake).await;
    quiet(&mut source, LONG).await;
    let health = source.health();
    assert!(!health.is_synced());
    for kind in [AUTHORIZATION, PEERS, CONFIG] {
        let why = error(&health, kind).unwrap();
        assert!(why.contains("its definition is installed"), "{why}");
        fake.serve(kind);
    }
    assert!(is_whole(&source.changed().await));
    assert_eq!(health.away(), None);
}

#[tokio::test(start_paused = true)]
async fn source_waits_for_no_kind_whose_absence_is_proven() {
    let fake = Fake::new();
    let began = tokio::time::Instant::now();
    let mut source = source(&fake).await;
    source.changed().await;
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(source.health().away(), None);
}

#[tokio::test(start_paused = true)]
async fn objects_stay_while_their_definition_cannot_be_read() {
    let fake = with_policies();
    let mut source = open(&fake).await;
    assert!(is_whole(&source.changed().await));
    let definition = format!("{}{PEERS}", fake::DEFINITIONS);
    fake.forbid(&definition);
    fake.unserve(PEERS);
    quiet(&mut source, LONG).await;
    let why = error(&source.health(), DEFINITIONS).unwrap();
    assert!(why.contains(PEERS) && why.contains("(403)"), "{why}");

    fake.allow(&definition);
    until(&mut source, |it| {
        it.world.mesh().inbound_mode == MtlsMode::Permissive
    })
    .await;
    tokio::time::sleep(DISCOVER_EVERY).await;
    assert_eq!(source.health().away(), None);
    assert_eq!(error(&source.health(), DEFINITIONS), None);
}

#[tokio::test(start_paused = true)]
async fn source_waits_at_the_start_while_a_definition_cannot_be_read() {
    let fake = Fake::new();
    let definition = format!("{}{PEERS}", fake::DEFINITIONS);
    fake.forbid(&definition);
    let mut source = source(&fake).await;
    quiet(&mut source, LONG).await;
    let why = error(&source.health(), PEERS).unwrap();
    assert!(why.contains("its definition cannot be read"), "{why}");
    fake.allow(&definition);
    source.changed().await;
}

/// A path that is not served is answered 404 too, which is not the absence of the definition.
#[tokio::test(start_paused = true)]
async fn definition_of_a_server_that_serves_no_definitions_counts_as_unknown() {
    let fake = Fake::new();
    fake.serve_no_definitions(true);
    let mut source = source(&fake).await;
    quiet(&mut source, LONG).await;
    fake.serve_no_definitions(false);
    source.changed().await;
}
