//! What the demo shows: numbered steps, quoted output, and a tick for each thing proven.

use std::fmt::Display;
use std::io::{IsTerminal, Write};

use anyhow::{Result, bail};

/// The exit code of a run whose output nobody reads any more: as if SIGPIPE had ended it.
pub(crate) const NOBODY_READS: i32 = 128 + 13;

/// Standard output, and the list of what was proven on it.
pub(crate) struct Screen {
    colour: bool,
    steps: usize,
    checks: usize,
    proven: Vec<String>,
}

#[derive(Clone, Copy)]
enum Style {
    Bold,
    Faint,
    Green,
    Cyan,
}

impl Screen {
    /// Coloured on a terminal, unless `NO_COLOR` is set (<https://no-color.org>).
    pub(crate) fn new() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            colour: std::io::stdout().is_terminal() && !refused,
            steps: 0,
            checks: 0,
            proven: Vec::new(),
        }
    }

    pub(crate) fn title(&self, text: &str, below: &str) {
        put(format_args!("{}\n{below}", self.paint(Style::Bold, text)));
    }

    /// Begins the next step.
    pub(crate) fn step(&mut self, headline: &str) {
        self.steps += 1;
        self.headline(&format!("{}. {headline}", self.steps));
    }

    /// A headline that is no step.
    pub(crate) fn headline(&self, text: &str) {
        put(format_args!("\n{}", self.paint(Style::Bold, text)));
    }

    pub(crate) fn say(&self, text: impl Display) {
        put(format_args!("   {text}"));
    }

    /// A command as a person would type it, and where.
    pub(crate) fn command(&self, place: &str, command: &str) {
        put(format_args!(
            "   {} $ {}",
            place,
            self.paint(Style::Cyan, command)
        ));
    }

    /// Commands to be typed by the reader, with nothing before them that a shell would mind.
    pub(crate) fn offer(&self, what: &str, commands: &[String]) {
        put(format_args!(
            "\n{}",
            self.paint(Style::Faint, format!("# {what}"))
        ));
        for command in commands {
            put(format_args!("{}", self.paint(Style::Cyan, command)));
        }
    }

    /// What a program printed.
    pub(crate) fn quote(&self, text: &str) {
        for line in text.trim_end().lines() {
            put(format_args!("   {} {line}", self.paint(Style::Faint, "|")));
        }
    }

    /// Lines in columns, the first one being the headline.
    pub(crate) fn table<const N: usize>(&self, rows: &[[String; N]]) {
        let widths: [usize; N] = std::array::from_fn(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or_default()
        });
        for (n, row) in rows.iter().enumerate() {
            let line: String = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:width$}  "))
                .collect();
            match n {
                0 => self.say(self.paint(Style::Faint, line.trim_end())),
                _ => self.say(line.trim_end()),
            }
        }
    }

    /// Ticks `claim` off when it `holds`.
    ///
    /// # Errors
    /// One sentence with what was expected, and what was `seen` instead.
    pub(crate) fn prove(
        &mut self,
        claim: &str,
        holds: bool,
        seen: impl FnOnce() -> String,
    ) -> Result<()> {
        if !holds {
            bail!(
                "step {} expected: {claim}; but saw: {}",
                self.steps,
                seen().trim_end()
            );
        }
        put(format_args!("   {} {claim}", self.paint(Style::Green, "✓")));
        self.checks += 1;
        Ok(())
    }

    /// What the checks of the step prove together, for the summary.
    pub(crate) fn conclude(&mut self, sentence: &str) {
        self.proven.push(format!("{}. {sentence}", self.steps));
    }

    /// All conclusions.
    pub(crate) fn summary(&self) {
        self.headline(&format!("What was proven, by {} checks", self.checks));
        for sentence in &self.proven {
            put(format_args!(
                "   {} {sentence}",
                self.paint(Style::Green, "✓")
            ));
        }
    }

    fn paint(&self, style: Style, text: impl Display) -> String {
        let code = match style {
            Style::Bold => 1,
            Style::Faint => 2,
            Style::Green => 32,
            Style::Cyan => 36,
        };
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_string()
        }
    }
}

/// Prints a line; ends the run where its reader has gone, as `head` does. The outer run tidies up.
fn put(text: impl Display) {
    if writeln!(std::io::stdout(), "{text}").is_err() {
        std::process::exit(NOBODY_READS);
    }
}
