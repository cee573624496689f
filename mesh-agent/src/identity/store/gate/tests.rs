//! Who goes to the authority first, and how many at a time.

use super::*;

async fn settle() {
    // Lets every task that can run do so.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Waits in the gate, tells that it got in, and stays until told to leave.
fn visitor(
    gate: &Arc<Gate>,
    purpose: Purpose,
    log: &Arc<Mutex<Vec<Purpose>>>,
) -> (tokio::task::JoinHandle<()>, oneshot::Sender<()>) {
    let (gate, log) = (Arc::clone(gate), Arc::clone(log));
    let (leave, left) = oneshot::channel();
    let task = tokio::spawn(async move {
        let _pass = gate.enter(purpose).await;
        log.lock().unwrap().push(purpose);
        let _ = left.await;
    });
    (task, leave)
}

#[tokio::test]
async fn first_certificates_go_ahead_of_renewals_that_came_before() {
    let (gate, log) = (Gate::new(), Arc::default());
    let mut renewals = Vec::new();
    for _ in 0..100 {
        renewals.push(visitor(&gate, Purpose::Renewal, &log));
    }
    settle().await;
    assert_eq!(log.lock().unwrap().len(), RENEWALS);

    // Renewals leave places for pods even when the authority answers none.
    let mut firsts = Vec::new();
    for _ in 0..50 {
        firsts.push(visitor(&gate, Purpose::First, &log));
    }
    settle().await;
    assert_eq!(log.lock().unwrap().len(), IN_FLIGHT);

    // Each place that is freed goes to a pod for as long as one waits.
    log.lock().unwrap().clear();
    for (task, leave) in renewals.drain(..RENEWALS) {
        leave.send(()).unwrap();
        task.await.unwrap();
    }
    settle().await;
    assert_eq!(*log.lock().unwrap(), [Purpose::First; RENEWALS]);

    // And in the end everybody was let in.
    let all = firsts.into_iter().chain(renewals);
    let (tasks, leaves): (Vec<_>, Vec<_>) = all.unzip();
    drop(leaves);
    for task in tasks {
        task.await.unwrap();
    }
    let renewals = |purpose: &&Purpose| **purpose == Purpose::Renewal;
    assert_eq!(
        log.lock().unwrap().iter().filter(renewals).count(),
        100 - RENEWALS
    );
}

#[tokio::test]
async fn who_gives_up_waiting_takes_no_place() {
    let (gate, log) = (Gate::new(), Arc::default());
    let mut held = Vec::new();
    for _ in 0..IN_FLIGHT {
        held.push(gate.enter(Purpose::First).await);
    }
    let (given_up, _leave) = visitor(&gate, Purpose::First, &log);
    settle().await;
    given_up.abort();
    assert!(given_up.await.unwrap_err().is_cancelled());
    let (next, _leave) = visitor(&gate, Purpose::First, &log);
    settle().await;
    drop(held);
    drop(_leave);
    next.await.unwrap();
    assert_eq!(*log.lock().unwrap(), [Purpose::First]);
    let State {
        firsts, renewals, ..
    } = &*gate.state();
    assert_eq!((*firsts, *renewals), (0, 0));
}
