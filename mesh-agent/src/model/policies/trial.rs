//! Istio's annotation for policies that are evaluated and not enforced. Read by the conversion
//! of policies, and by `config` for policies that cannot be read.

/// The annotation.
pub(crate) const DRY_RUN: &str = "istio.io/dry-run";

/// A truth value as Istio reads it (Go's `strconv.ParseBool`).
pub(crate) fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}
