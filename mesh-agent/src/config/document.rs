//! From the text of one file to typed objects: YAML documents, JSON, and lists; and
//! from one object of the Kubernetes API. Called by the cache of files for every new
//! version of a file, and by the store of the API's objects. All problems of a file
//! are reported, not the first alone.

mod reader;

use std::path::Path;

use serde::Deserialize;
use serde_yaml_ng::Value;

use super::unread;
use crate::model::{Objects, Origin, Problem, Sourced, UnreadPolicy};
use reader::{Reader, Source};

pub(super) use reader::UNENFORCED_GROUPS;

/// Reads the text of `file`; JSON if the file is named `.json`, else YAML.
///
/// # Errors
/// Every document that cannot be read, with its line and column where the text
/// does not parse and with the path of the field where a value has a wrong type.
pub fn read_objects(file: &Path, text: &str) -> Result<Objects, Vec<Problem>> {
    read(file, text).map_err(|rejected| rejected.problems)
}

/// What is known of a text that cannot be taken.
pub(super) struct Rejected {
    pub(super) problems: Vec<Problem>,
    /// The policies that it holds or may hold.
    pub(super) policies: Vec<Sourced<UnreadPolicy>>,
}

/// [`read_objects`], with what must be feared of a text that cannot be taken.
pub(super) fn read(file: &Path, text: &str) -> Result<Objects, Rejected> {
    let documents = parse(file, text).map_err(|problem| Rejected {
        problems: vec![*problem],
        policies: unread::of_text(file, text),
    })?;
    let mut reader = Reader::new(Origin::new(file, 0), Source::File);
    for document in documents {
        reader.value(with_text_keys(document));
    }
    reader.done()
}

/// Reads one object of the Kubernetes API, which says its own version and kind.
pub(super) fn read_of_api(object: Value) -> Result<Objects, Rejected> {
    let mut reader = Reader::new(Origin::api(), Source::Api);
    reader.value(object);
    reader.done()
}

fn parse(file: &Path, text: &str) -> Result<Vec<Value>, Box<Problem>> {
    let is_json = file
        .extension()
        .is_some_and(|extension| extension == "json");
    if is_json {
        let documents = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        let documents: Result<Vec<Value>, _> = documents.collect();
        return documents.map_err(|error| {
            let place = Some((error.line(), error.column()));
            unparsable(file, "JSON", &error.to_string(), place).into()
        });
    }
    let documents = serde_yaml_ng::Deserializer::from_str(text).map(Value::deserialize);
    let documents: Result<Vec<Value>, _> = documents.collect();
    documents.map_err(|error| {
        let place = error.location().map(|at| (at.line(), at.column()));
        unparsable(file, "YAML", &error.to_string(), place).into()
    })
}

fn unparsable(file: &Path, format: &str, error: &str, place: Option<(usize, usize)>) -> Problem {
    Problem {
        file: file.to_owned(),
        object: None,
        field: place.map_or_else(String::new, |(line, column)| {
            format!("line {line} column {column}")
        }),
        message: format!("it is not {format}: {error}"),
        cure: "correct it; until then the file's last good version stays in force".to_owned(),
        severity: crate::model::Severity::Error,
    }
}

/// YAML lets a key be a number (`portLevelMtls: {8080: ...}`), JSON does not; like
/// kubectl, takes its text.
fn with_text_keys(value: Value) -> Value {
    match value {
        Value::Sequence(items) => items.into_iter().map(with_text_keys).collect(),
        Value::Mapping(fields) => {
            let fields = fields.into_iter().map(|(key, value)| {
                let key = match key {
                    Value::Number(number) => number.to_string().into(),
                    Value::Bool(flag) => flag.to_string().into(),
                    other => other,
                };
                (key, with_text_keys(value))
            });
            Value::Mapping(fields.collect())
        }
        scalar => scalar,
    }
}
