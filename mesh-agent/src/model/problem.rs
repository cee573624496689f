//! One thing that is wrong with the configuration, said so that a person can
//! act on it. Made by the model and by `config`, shown by the log and the CLI.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::object::Origin;

/// What is wrong, where, and what to do about it. Orders by file, then object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file it was found in.
    pub file: PathBuf,
    /// `Kind namespace/name` of the object, where one could be told.
    pub object: Option<String>,
    /// The path of the field (`status.podIPs[0].ip`), or `line L column C` where
    /// the text does not parse, or empty where the whole file is meant.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What makes it right.
    pub cure: String,
    /// How bad it is.
    pub severity: Severity,
}

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something is not in force as it is written, or is almost surely not what is meant.
    Error,
    /// What is written is in force, and may be a mistake.
    Warning,
}

impl Problem {
    pub(crate) fn new(
        origin: &Origin,
        object: impl Into<String>,
        field: impl Into<String>,
        message: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self {
            file: origin.file.to_path_buf(),
            object: Some(object.into()),
            field: field.into(),
            message: message.into(),
            cure: cure.into(),
            severity: Severity::Error,
        }
    }

    /// Without its file and object, for who has the object before them.
    pub fn in_place(&self) -> String {
        let Self {
            field,
            message,
            cure,
            ..
        } = self;
        match field.is_empty() {
            true => format!("{message}; {cure}"),
            false => format!("{field}: {message}; {cure}"),
        }
    }

    /// The same, of less weight.
    pub(crate) fn into_warning(self) -> Self {
        Self {
            severity: Severity::Warning,
            ..self
        }
    }
}

impl fmt::Display for Problem {
    /// One line: control characters in names and values are escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = self.file.display().to_string();
        if let Some(object) = &self.object {
            line = format!("{line}: {object}");
        }
        if !self.field.is_empty() {
            line = format!("{line}: {}", self.field);
        }
        line = format!("{line}: {}; {}", self.message, self.cure);
        for c in line.chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}
