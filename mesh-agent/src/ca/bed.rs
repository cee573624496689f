//! An authority of `cluster.local` for a test, with a clock that the test sets. Used by the
//! tests of this module.

use std::sync::Arc;

use tempfile::TempDir;

use super::{Authority, init};
use crate::identity::fixtures::{ManualClock, domain, epoch};

/// An authority in a directory that goes with the test.
pub(super) struct Bed {
    /// The authority is in `ca` below it.
    pub(super) dir: TempDir,
    pub(super) clock: Arc<ManualClock>,
    pub(super) ca: Authority,
}

pub(super) fn bed() -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(epoch());
    let ca = init(
        &dir.path().join("ca"),
        &domain("cluster.local"),
        clock.clone(),
    )
    .unwrap();
    Bed { dir, clock, ca }
}
