//! The tests of `tests/tests/cluster`, against a cluster that is brought up for them.

use std::path::Path;

use anyhow::{Result, ensure};

use super::place::Place;
use super::{images, life, load_agent, supervise};
use crate::command::Run;
use crate::phases::Tally;
use crate::{apt, build};

/// The cluster of the tests.
pub(super) const NAME: &str = "test";

/// By which the tests find the cluster's folder.
const CLUSTER: &str = "ISTHMUS_CLUSTER";

/// How many tests run at once. They mostly wait, for kubelets above all; more than this, and
/// two processors keep each other's probes waiting.
const THREADS: &str = "--test-threads=4";

/// `cargo xtask cluster test`.
pub(super) fn command(place: &Place, filter: Option<&str>) -> Result<()> {
    let mut tally = Tally::default();
    run(&mut tally, place, filter);
    tally.close()
}

/// The phase of `cargo xtask test`.
pub(crate) fn phase(tally: &mut Tally) {
    in_own_cluster(tally, None);
}

/// The tests whose names contain `name`; false when there are none.
pub(crate) fn one(tally: &mut Tally, name: &str) -> Result<bool> {
    let listed = tests().arg(name).words("-- --list").output()?;
    if !listed.lines().any(|line| line.ends_with(": test")) {
        return Ok(false);
    }
    in_own_cluster(tally, Some(name));
    Ok(true)
}

fn in_own_cluster(tally: &mut Tally, filter: Option<&str>) {
    if let Some(place) = tally.check("the name of the tests' cluster", || Place::named(NAME)) {
        run(tally, &place, filter);
    }
}

fn run(tally: &mut Tally, place: &Place, filter: Option<&str>) {
    let mut was_up = false;
    let ready = tally.check("the cluster", || {
        if place.name() == NAME {
            // What a run that was killed left.
            supervise::claimed(place, life::remove)?;
        }
        was_up = life::is_up(place)?;
        let object = build::kernel_programs()?;
        apt::ensure_all("the tests", apt::TEST_TOOLS)?;
        build::userspace(&object, false)?;
        supervise::claimed(place, life::up)?;
        load_agent(place)?;
        life::load(place, &[images::traffic()?])?;
        Ok((object, place.folder()?))
    });
    if let Some((object, folder)) = &ready {
        let all = in_cluster(object, folder, filter);
        tally.tests_with_second_look("tests in the cluster", all, |name| {
            in_cluster(object, folder, Some(name)).arg("--exact")
        });
    }
    if !was_up {
        tally.check("the cluster leaves nothing", || {
            supervise::claimed(place, life::down)?;
            ensure!(!place.folder()?.exists(), "its folder is still there");
            Ok(())
        });
    }
}

fn in_cluster(object: &Path, cluster: &Path, filter: Option<&str>) -> Run {
    let run = tests()
        .env(build::OBJECT, object)
        .env(CLUSTER, cluster)
        // An error's own text says where it comes from.
        .env("RUST_LIB_BACKTRACE", "0");
    let run = match filter {
        Some(filter) => run.arg(filter),
        None => run,
    };
    run.arg("--").arg(THREADS)
}

fn tests() -> Run {
    build::cargo("test --package isthmus-tests --test cluster --no-fail-fast")
}
