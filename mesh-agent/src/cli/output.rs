//! Standard output: the two forms of an answer, and a reader that stops early.

use std::io::{self, Write};

/// Form in which a command answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: every field, sizes in bytes and times in their unit.
    Json,
}

/// Prints to standard output. A reader that has gone (`| head`) is no failure.
pub(super) fn print(text: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Prints to standard error. A reader that has gone is no failure.
pub(super) fn print_error(text: &[u8]) -> io::Result<()> {
    match io::stderr().lock().write_all(text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Prints a JSON document and ends its line.
pub(super) fn print_json(document: &[u8]) -> io::Result<()> {
    print(document)?;
    print(b"\n")
}
