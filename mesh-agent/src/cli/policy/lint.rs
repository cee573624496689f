//! What `mesh-agent policy lint` found, as text and as JSON.

use serde::Serialize;

use crate::model::{Problem, Severity};

/// A problem by its parts.
#[derive(Serialize)]
struct Finding<'a> {
    severity: Severity,
    file: String,
    object: Option<&'a str>,
    field: &'a str,
    message: &'a str,
    cure: &'a str,
}

pub(super) fn render(found: &[Problem]) -> String {
    let mut out = String::new();
    for problem in found {
        let severity = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        out.push_str(&format!("{severity}: {problem}\n"));
    }
    let errors = found.iter().filter(|it| it.severity == Severity::Error);
    let errors = errors.count();
    let warnings = found.len() - errors;
    if found.is_empty() {
        return "nothing is wrong\n".to_owned();
    }
    let number = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    };
    let (errors, warnings) = (number(errors, "error"), number(warnings, "warning"));
    out.push_str(&format!("\n{errors}, {warnings}\n"));
    out
}

pub(super) fn json(found: &[Problem]) -> serde_json::Result<Vec<u8>> {
    let findings = found.iter().map(|it| Finding {
        severity: it.severity,
        file: it.file.display().to_string(),
        object: it.object.as_deref(),
        field: &it.field,
        message: &it.message,
        cure: &it.cure,
    });
    serde_json::to_vec(&findings.collect::<Vec<_>>())
}
