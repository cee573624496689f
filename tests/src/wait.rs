//! Waiting for what has no event to wait on; used by the harness and by tests.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Multiplies every deadline; set for kernels that run under software emulation.
pub const SLOWNESS: &str = "ISTHMUS_TEST_SLOWNESS";

/// `seconds`, multiplied by [`SLOWNESS`] where that is set.
///
/// Deadlines only end a test that is stuck; nothing asserts how long a thing took.
#[must_use]
pub fn patience(seconds: u64) -> Duration {
    let factor = std::env::var(SLOWNESS)
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(1);
    Duration::from_secs(seconds.saturating_mul(factor))
}

/// Polls `condition` until it is `Some`.
///
/// # Errors
/// Says `what` was awaited for how long, and what was `last_seen`, when `patience` runs out.
pub fn until<T>(
    what: &str,
    patience: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
    last_seen: impl FnOnce() -> String,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let last_error = match condition() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if start.elapsed() >= patience {
            let error = last_error
                .map(|e| format!("; last error: {e:#}"))
                .unwrap_or_default();
            bail!(
                "waited {patience:?} in vain until {what}{error}; last seen: {}",
                last_seen()
            );
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Polls `condition` until it is true: [`until`] for plain questions.
///
/// # Errors
/// Says `what` was awaited when the patience for slow steps (30 s) runs out.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    until(
        what,
        patience(30),
        || Ok(condition().then_some(())),
        || "it was not so".to_owned(),
    )
}
