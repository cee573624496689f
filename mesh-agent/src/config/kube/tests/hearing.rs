//! How kinds that are lost are heard again, and what is said meanwhile.

use super::super::Hearing;
use super::super::health::SETTLE;
use super::*;
use crate::config::KubeHealth;

/// Waits until `seen` holds, looking at each turn.
async fn until_heard(health: &KubeHealth, seen: impl Fn(&KubeHealth) -> bool) {
    let mut turns = health.turns();
    let found = tokio::time::timeout(LONG, async {
        while !seen(health) {
            turns.changed().await.unwrap();
        }
    });
    found.await.expect("it never came");
}

/// What is missing where a part is heard.
fn missing(health: &KubeHealth) -> String {
    match health.hearing() {
        Hearing::Part(what) => what,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn one_kind_that_is_heard_again_brings_the_others() {
    for _ in 0..20 {
        let fake = Fake::new();
        fake.serve("authorizationpolicies.security.istio.io");
        let mut source = source(&fake).await;
        source.changed().await;
        let health = source.health();
        fake.go_away();
        // Until every wait is the longest.
        tokio::time::sleep(LONG).await;
        assert_eq!(health.hearing(), Hearing::Nothing);
        let away = |health: &KubeHealth| {
            let kinds = health.kinds();
            kinds.iter().filter(|it| it.away_since.is_some()).count()
        };
        let lost = away(&health);
        assert!(lost > 6, "{:?}", health.kinds());
        fake.come_back();
        until_heard(&health, |health| away(health) < lost).await;
        let first = tokio::time::Instant::now();
        until_heard(&health, |health| away(health) == 0).await;
        assert_eq!(first.elapsed(), Duration::ZERO, "not with the first");
        // What was missed is still on its way.
        assert!(missing(&health).contains("on its way"));
        tokio::time::sleep(SETTLE).await;
        assert_eq!(health.hearing(), Hearing::Whole);
    }
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_lost_alone_is_named() {
    let fake = Fake::new();
    fake.serve("authorizationpolicies.security.istio.io");
    let mut source = source(&fake).await;
    source.changed().await;
    let health = source.health();
    assert_eq!(health.hearing(), Hearing::Whole);
    fake.forbid(POLICIES);
    until_heard(&health, |health| health.away().is_some()).await;
    let what = missing(&health);
    let wanted = "authorizationpolicies.security.istio.io not heard: this is forbidden here (403)";
    assert_eq!(what, wanted);
    // The others' coming back brings a try, and no more than that.
    fake.go_away();
    tokio::time::sleep(LONG).await;
    fake.come_back();
    until_heard(&health, |health| health.hearing() != Hearing::Nothing).await;
    tokio::time::sleep(LONG).await;
    assert!(missing(&health).contains("forbidden here"));
    fake.allow(POLICIES);
    until_heard(&health, |health| health.away().is_none()).await;
    tokio::time::sleep(SETTLE).await;
    assert_eq!(health.hearing(), Hearing::Whole);
}

#[tokio::test(start_paused = true)]
async fn a_kind_whose_definition_is_removed_is_not_waited_for() {
    let fake = Fake::new();
    fake.serve("authorizationpolicies.security.istio.io");
    let mut source = source(&fake).await;
    source.changed().await;
    let health = source.health();
    fake.unserve("authorizationpolicies.security.istio.io");
    until_heard(&health, |health| health.away().is_some()).await;
    let lost = tokio::time::Instant::now();
    until_heard(&health, |health| health.away().is_none()).await;
    // The discovery looks at once rather than at its next turn.
    assert!(lost.elapsed() < super::super::discovery::DISCOVER_EVERY / 10);
    tokio::time::sleep(SETTLE).await;
    assert_eq!(health.hearing(), Hearing::Whole);
}

#[tokio::test(start_paused = true)]
async fn kinds_that_flap_do_not_drive_each_other() {
    let fake = Fake::new();
    let mut source = source(&fake).await;
    source.changed().await;
    let health = source.health();
    fake.forbid(PODS);
    fake.forbid(NAMESPACES);
    until_heard(&health, |health| health.away().is_some()).await;
    let began = fake.asked();
    for _ in 0..200 {
        for path in [PODS, NAMESPACES] {
            fake.allow(path);
            tokio::time::sleep(Duration::from_millis(250)).await;
            fake.forbid(path);
        }
    }
    // Five tries in each ten seconds would be each kind's own, and as many again for the wakes.
    let asked = fake.asked() - began;
    assert!(asked < 600, "{asked} requests in 100 s");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_not_heard() {
    let fake = Fake::new();
    let mut source = source(&fake).await;
    source.changed().await;
    let health = source.health();
    fake.hang(PODS);
    until_heard(&health, |health| health.away().is_some()).await;
    let (_, why) = health.away().unwrap();
    assert_eq!(
        why,
        "pods: failed to start watching object: ServiceError: no answer within 65 s"
    );
}
