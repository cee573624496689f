//! What the plugin and the agent say to each other: one line of JSON each, then the
//! connection ends. Both are of one version, as the agent installs the plugin.

use serde::{Deserialize, Serialize};

use super::{Admitted, PodSandbox};

/// Longest question and longest answer, in bytes with the newline.
pub(super) const MAX: u64 = 64 << 10;

/// The plugin's.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Question {
    /// May the pod start?
    Admit(PodSandbox),
    /// The pod ends.
    Leave(PodSandbox),
}

/// The agent's.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Answer {
    /// To a pod that may start.
    Admitted(Admitted),
    /// No, and why.
    Refused(String),
    /// Heard.
    Done,
}
