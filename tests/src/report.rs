//! What a test leaves for the reader when it fails.
//!
//! The test runner shows what a test wrote to standard error only when it failed, so parts of
//! the world write what they know whenever they go. Programs that are not tests turn it off.

use std::sync::atomic::{AtomicBool, Ordering};

static SILENT: AtomicBool = AtomicBool::new(false);

/// Turns the notes off for the whole process.
pub fn silence() {
    SILENT.store(true, Ordering::Relaxed);
}

/// Writes the last lines of `text` under a headline.
pub fn note(headline: &str, text: &str) {
    if SILENT.load(Ordering::Relaxed) {
        return;
    }
    let lines: Vec<_> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(60)..];
    eprintln!(
        "--- {headline} ({} lines, the last {})\n{}",
        lines.len(),
        shown.len(),
        shown.join("\n")
    );
}
