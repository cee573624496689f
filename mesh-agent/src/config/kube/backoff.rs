//! How long a follower waits after a failure: longer each time, and no longer than until another
//! kind is heard again. Used by the followers and by the discovery.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::health::{KubeHealth, Turns};
use crate::tls::random_fraction;

/// The first wait after a failure, doubled with each further one...
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// ...up to this: when a server comes back it is noticed within ten seconds, and a
/// thousand nodes ask it a hundred times a second for each kind.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Waits that grow, and differ among nodes.
pub(super) struct Backoff {
    next: Duration,
    turns: watch::Receiver<Turns>,
    /// How many returns are known.
    back: u64,
    /// When another kind's return last ended a wait.
    woken: Option<Instant>,
}

impl Backoff {
    pub(super) fn new(health: &KubeHealth) -> Self {
        let turns = health.turns();
        let back = turns.borrow().back;
        Self {
            next: FIRST_WAIT,
            turns,
            back,
            woken: None,
        }
    }

    /// What was tried works.
    pub(super) fn reset(&mut self) {
        self.next = FIRST_WAIT;
    }

    /// What was tried worked until now: who came back before tells nothing about it.
    pub(super) fn lost(&mut self) {
        self.back = self.turns.borrow().back;
    }

    /// Waits until it is to be tried again. A kind that is heard again, since the last attempt
    /// began or meanwhile, says that the server is back: the wait is over, and waits are short
    /// again. At most once in [`LONGEST_WAIT`], so that kinds which come and go do not drive
    /// each other on.
    pub(super) async fn wait(&mut self) {
        let wait = self.next.mul_f64(0.5 + 0.5 * random_fraction());
        self.next = LONGEST_WAIT.min(self.next * 2);
        let began = Instant::now();
        if self.woken.is_some_and(|at| began < at + LONGEST_WAIT) {
            return tokio::time::sleep(wait).await;
        }
        let known = self.back;
        let turn = self.turns.wait_for(|turns| turns.back != known);
        // The sender lives with the health, which whoever waits here has.
        let Ok(Ok(turns)) = tokio::time::timeout(wait, turn)
            .await
            .map(|it| it.map(|it| *it))
        else {
            return;
        };
        self.back = turns.back;
        self.woken = Some(Instant::now());
        self.reset();
    }
}
