//! One credential per identity, however many want it, and none that nobody holds.

use super::*;

#[tokio::test(start_paused = true)]
async fn callers_of_one_identity_share_one_credential() {
    let (store, ca, _) = store();
    let callers: Vec<_> = (0..500)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.acquire(&id("web")).await.unwrap() })
        })
        .collect();
    let mut held = Vec::new();
    for caller in callers {
        held.push(caller.await.unwrap());
    }
    assert_eq!(ca.asked(), 1);
    assert!(
        held.iter()
            .all(|credential| Arc::ptr_eq(credential, &held[0]))
    );
    let other = store.acquire(&id("db")).await.unwrap();
    assert_eq!(ca.asked(), 2);
    let listed: Vec<_> = store.list().into_iter().map(|info| info.id).collect();
    assert_eq!(listed, [id("db"), id("web")]);
    assert_eq!(other.info().generation, 1);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_holds_is_forgotten_and_no_longer_renewed() {
    let (store, ca, _) = store();
    drop(store.acquire(&id("web")).await.unwrap());
    assert!(store.list().is_empty());
    sleep(3 * DAY).await;
    assert_eq!(ca.asked(), 1, "a credential that nobody holds was renewed");
    store.acquire(&id("web")).await.unwrap();
    assert_eq!(ca.asked(), 2);
    assert_eq!(store.slots().len(), 1);
    store.acquire(&id("db")).await.unwrap();
    assert_eq!(
        store.slots().len(),
        1,
        "the slot of a dropped credential stays"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_to_all_who_wait_and_is_not_remembered() {
    let (store, ca, _) = store();
    ca.set_down(true);
    let (web_1, web_2) = (id("web"), id("web"));
    let (one, two) = tokio::join!(store.acquire(&web_1), store.acquire(&web_2));
    for outcome in [one, two] {
        let error = outcome
            .expect_err("issued by an authority that is down")
            .to_string();
        assert!(
            error.contains("the authority is down") && error.contains("sa/web"),
            "{error}"
        );
    }
    assert_eq!(ca.asked(), 1);
    ca.set_down(false);
    store.acquire(&id("web")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_takes_nothing_from_the_others() {
    let (store, ca, _) = store();
    let web = id("web");
    tokio::select! {
        biased;
        _ = store.acquire(&web) => panic!("the authority takes 50 ms"),
        () = sleep(Duration::from_millis(10)) => {}
    }
    store.acquire(&web).await.unwrap();
    assert_eq!(ca.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_never_answers_is_given_up() {
    let (store, ca, _) = store();
    ca.set_hangs(true);
    let outcome = store.acquire(&id("web")).await;
    assert!(
        matches!(outcome, Err(IssueError::TimedOut { .. })),
        "{outcome:?}"
    );
}
