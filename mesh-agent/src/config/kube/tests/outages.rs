//! What the source makes of a server that fails, forgets, or knows less than it should.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_first_world_has_everything() {
    for fake in [Fake::new(), Fake::streaming()] {
        fake.serve("authorizationpolicies.security.istio.io");
        let mut source = source(&fake).await;
        let first = source.changed().await;
        assert_eq!(names(&first), ["db", "web"]);
        assert!(first.complete, "{:?}", first.problems);
        assert!(source.health().is_synced());
        let policies = |kind: &&crate::config::KindHealth| kind.kind.starts_with("authorization");
        let kinds = source.health().kinds();
        let policies = kinds.iter().find(policies).unwrap();
        assert_eq!(policies.version.as_deref(), Some("v1"));
        let config = kinds.iter().find(|it| it.kind.starts_with("meshconfigs"));
        assert_eq!(config.unwrap().version, None);
        assert_eq!(source.health().away(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_label_is_seen_at_once() {
    let fake = Fake::new();
    let mut source = source(&fake).await;
    assert!(!is_meshed(&source.changed().await, "shop/web"));
    fake.put(
        NAMESPACES,
        namespace("shop", json!({"isthmus.dev/mesh": "enabled"})),
    );
    let asked = tokio::time::Instant::now();
    until(&mut source, |it| is_meshed(it, "shop/web")).await;
    assert!(asked.elapsed() <= super::super::EVERY);
    fake.delete(PODS, &pod("db", ""));
    until(&mut source, |it| names(it) == ["web"]).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_known_outlives_the_server() {
    let fake = Fake::new();
    let mut source = source(&fake).await;
    source.changed().await;
    fake.go_away();
    fake.lose(PODS, &pod("db", ""));
    let hour = Duration::from_secs(3600);
    let nothing = tokio::time::timeout(hour, source.changed()).await;
    assert!(nothing.is_err(), "{:?}", nothing.map(|it| it.problems));
    let (_, why) = source.health().away().unwrap();
    assert!(why.contains("refused"), "{why}");

    fake.put(PODS, pod("cache", "10.0.0.3"));
    // What was lost meanwhile is not in any event: the server has forgotten, too.
    fake.forget(PODS);
    fake.come_back();
    until(&mut source, |it| names(it) == ["cache", "web"]).await;
    // Watches without news are heard as well.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(source.health().away(), None);
}

#[tokio::test(start_paused = true)]
async fn a_new_list_takes_the_old_ones_place_at_once() {
    let fake = Fake::new();
    let mut source = source(&fake).await;
    source.changed().await;
    fake.lose(PODS, &pod("db", ""));
    fake.lose(PODS, &pod("web", ""));
    fake.forget(PODS);
    fake.put(PODS, pod("new", "10.0.0.4"));
    // Neither the old ones with the new, nor nothing.
    assert_eq!(names(&source.changed().await), ["new"]);
    assert_eq!(fake.lists().iter().filter(|it| *it == PODS).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn garbage_in_one_watch_hurts_no_other() {
    let fake = Fake::new();
    let mut source = source(&fake).await;
    source.changed().await;
    fake.say(PODS, "this is no JSON\n");
    fake.put(
        NAMESPACES,
        namespace("shop", json!({"isthmus.dev/mesh": "enabled"})),
    );
    until(&mut source, |it| is_meshed(it, "shop/web")).await;
    fake.put(PODS, pod("late", "10.0.0.5"));
    until(&mut source, |it| names(it).contains(&"late")).await;
}

#[tokio::test(start_paused = true)]
async fn a_definition_may_come_and_go() {
    let fake = Fake::new();
    fake.put(POLICIES, policy("none", json!({})));
    let mut source = source(&fake).await;
    let first = source.changed().await;
    assert!(!refused(&first, "shop/none"));
    fake.serve("authorizationpolicies.security.istio.io");
    until(&mut source, |it| refused(it, "shop/none")).await;
    fake.unserve("authorizationpolicies.security.istio.io");
    until(&mut source, |it| !refused(it, "shop/none")).await;
}

/// Whether a policy, such as one that allows nothing, is in force.
fn refused(loaded: &Loaded, name: &str) -> bool {
    let known = &loaded.world.policies().known;
    known.authorization.contains_key(name)
}
