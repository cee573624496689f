//! The agents' access logs, from a certain moment on.

use anyhow::{Context, Result};
use isthmus_tests::mesh::Node;
use isthmus_tests::wait::{patience, until};
use serde_json::Value;

/// A place in a node's access log.
pub(super) struct LogMark<'a> {
    node: &'a Node,
    lines: usize,
}

impl<'a> LogMark<'a> {
    /// The end of the log as it is now.
    pub(super) fn now(node: &'a Node) -> Result<Self> {
        Ok(Self {
            node,
            lines: node.access_log()?.len(),
        })
    }

    /// Waits for a line behind the mark in which each of these fields has that value.
    pub(super) fn wait(&self, wanted: &[(&str, &str)]) -> Result<Value> {
        let mut seen = Vec::new();
        until(
            "the access log has the line",
            patience(30),
            || {
                seen = self.node.access_log()?.split_off(self.lines);
                Ok(seen
                    .iter()
                    .find(|line| wanted.iter().all(|(field, value)| line[field] == *value))
                    .cloned())
            },
            String::new,
        )
        .with_context(|| {
            let seen: Vec<_> = seen.iter().map(Value::to_string).collect();
            format!(
                "expected a line of {}'s access log with {wanted:?}; but saw: {}",
                self.node.name(),
                seen.join("\n")
            )
        })
    }
}

/// One field as text; a dash where the line has none.
pub(super) fn field<'a>(line: &'a Value, name: &str) -> &'a str {
    line[name].as_str().unwrap_or("-")
}
