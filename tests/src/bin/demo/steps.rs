//! The steps of the demo, in order. Each shows something, and proves what it says about it.

mod access;
mod killed;
mod request;
mod stranger;
mod who;
mod wire;

use anyhow::Result;
use isthmus_tests::mesh::Pod;
use isthmus_tests::process::Finished;

use crate::screen::Screen;
use crate::stage::{self, Stage};

/// Walks through all steps.
///
/// # Errors
/// The first expectation that failed, in one sentence.
pub(crate) fn all(screen: &mut Screen, stage: &Stage) -> Result<()> {
    who::show(screen, stage)?;
    let recording = request::show(screen, stage)?;
    wire::show(screen, stage, &recording)?;
    stranger::show(screen, stage)?;
    killed::show(screen, stage)?;
    killed::back(screen, stage)
}

/// Runs curl in `pod`, shows the command and what it printed.
fn curl(screen: &Screen, pod: &Pod, place: &str, to: &str, secret: &str) -> Result<Finished> {
    screen.command(place, &stage::curl_words(to, secret));
    let finished = stage::curl(pod, to, secret)?;
    screen.quote(&finished.stdout);
    screen.quote(&finished.stderr);
    Ok(finished)
}

/// Both outputs and the exit code, for a sentence.
fn outcome(finished: &Finished) -> String {
    format!(
        "curl {}: {}{}",
        finished.status, finished.stdout, finished.stderr
    )
}

/// Whether nginx's answer came, with the secret that was sent and the address that it saw.
fn answered(finished: &Finished, name: &str, client: &Pod, secret: &str) -> bool {
    finished.status.success()
        && finished.stdout.contains(&format!("nginx in {name}."))
        && finished.stdout.contains(secret)
        && client
            .addresses()
            .iter()
            .any(|address| finished.stdout.contains(&format!("from {address},")))
}
