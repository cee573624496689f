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
    let shown: Vec<_> = shown.iter().map(|line| shortened(line)).collect();
    eprintln!(
        "--- {headline} ({} lines, the last {})\n{}",
        lines.len(),
        shown.len(),
        shown.join("\n")
    );
}

/// A listing of hundreds of pods is one line, and says nothing by its middle.
fn shortened(line: &str) -> String {
    const END: usize = 2000;
    if line.len() <= 2 * END {
        return line.to_owned();
    }
    let (head, tail) = (
        line.floor_char_boundary(END),
        line.ceil_char_boundary(line.len() - END),
    );
    format!("{} [...] {}", &line[..head], &line[tail..])
}
